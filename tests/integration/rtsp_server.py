"""A real RTSP camera: python3 rtsp_server.py PORT FOLDER COUNT FPS plays FOLDER/0000.jpg ... for ever, as H.264.

Runs in the system's Python, which has GStreamer's bindings; prints "ready" when it listens on 127.0.0.1.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 -- versions are chosen before the import

PIPELINE = (
    "( multifilesrc location={folder}/%04d.jpg start-index=0 stop-index={last} loop=true"
    " caps=image/jpeg,framerate={fps}/1 ! jpegdec ! videoconvert"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} ! rtph264pay name=pay0 pt=96 )"
)


def main() -> None:
    port, folder, count, fps = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE.format(folder=folder, last=int(count) - 1, fps=fps))
    factory.set_shared(True)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"cannot listen on {port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


main()
