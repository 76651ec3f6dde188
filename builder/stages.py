"""The pipeline's stages: for each the inputs that it is cached by, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, OnnxModel, TensorSpec
from builder.cache import Stage, StageCache, code_sha256, file_sha256, tool_versions
from builder.errors import SpecError
from builder.head import HeadSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from builder.compile_check import CompileCheck
    from builder.engine import Profile
    from builder.serving import GpuServing
    from builder.spec import BuildSpec
    from builder.weights import Network

TORCH_TOOLS = ("torch", "ultralytics-opencv-headless", "ultralytics", "onnx", "numpy")
RUNTIME_TOOLS = ("onnxruntime-gpu", "onnxruntime", "openvino")
PRECISION_TOOLS = (*TORCH_TOOLS, *RUNTIME_TOOLS, "nvidia-modelopt")
COMPILE_TOOLS = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")
IMAGE_TOOLS = ("opencv-python-headless", "opencv-python", "pillow")
ONNX_CODE = ("onnx_weights", "dynamic_batch", "graph_tensors")
IMAGE_CODE = ("../clients/images", "../clients/encoded_images", "../clients/letterbox")
"""What makes pictures into pixels, here as in the clients."""
NETWORK_FILE = "network.onnx"
SERVED_FILE = "model.onnx"


@dataclass(kw_only=True)
class Stages:
    """One build's stages; each method names what it returns and is run again only where its inputs changed."""

    spec: BuildSpec
    weights: Path
    report: Callable[[Stage], None]
    """Called as each stage ends."""
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    """Called now and then while a stage takes long, with what it does and how much of it is done."""
    done: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Hash the sources.

        Raises:
            SpecError: an image for parity is missing.
        """
        self.cache = StageCache(self.spec.cache)
        self.weights_sha256 = file_sha256(self.weights)
        self.images = self.spec.images or bundled_images()
        for image in self.images:
            if not image.is_file():
                found = "a folder: name the pictures in it" if image.is_dir() else "no such file"
                raise SpecError(f"--images {image}: {found}.")

    def network(self) -> NetworkModel:
        """The network's graph in FP32."""
        stage = self.run("export", self._source_inputs(), self._export)
        return NetworkModel.from_json(stage.result, stage.folder / NETWORK_FILE)

    def converted(self, network: NetworkModel) -> NetworkModel:
        """The network's graph at the spec's precision."""
        from builder.precision import convert_precision

        def make(folder: Path) -> dict[str, Any]:
            pixels = self.pixels(network.imgsz)
            return convert_precision(network, self.spec.precision, pixels, folder / NETWORK_FILE).to_json()

        inputs = {
            "network": network_identity(network),
            "precision": self.spec.precision,
            "images": self.image_hashes(),
            "code": code_sha256(("precision", "export", "parity", *IMAGE_CODE)),
            "tools": tool_versions(PRECISION_TOOLS),
        }
        stage = self.run("precision", inputs, make)
        return NetworkModel.from_json(stage.result, stage.folder / NETWORK_FILE)

    def served(self, network: NetworkModel) -> OnnxModel:
        """The served graph: pre- and postprocessing attached."""
        from builder.head import attach_head

        head_spec = self.head_spec(network)

        def make(folder: Path) -> dict[str, Any]:
            attach_head(network, head_spec, folder / SERVED_FILE)
            return {"sha256": file_sha256(folder / SERVED_FILE), **_interface(folder / SERVED_FILE)}

        inputs = {
            "network": network_identity(network),
            "head": repr(head_spec),
            "code": code_sha256(("head", "head_modules", "export")),
            "tools": tool_versions(TORCH_TOOLS),
        }
        stage = self.run("head", inputs, make)
        return OnnxModel(
            path=stage.folder / SERVED_FILE,
            sha256=stage.result["sha256"],
            inputs=_tensors(stage.result["inputs"]),
            outputs=_tensors(stage.result["outputs"]),
        )

    def parity(self, original: NetworkModel, network: NetworkModel, served: OnnxModel) -> dict[str, Any]:
        """The parity figures of every graph.

        Raises:
            ParityError: a figure is beyond its limit.
        """
        from builder.runtimes import runtimes

        inputs = {
            **self._source_inputs(),
            "graphs": [file_sha256(network.path), served.sha256],
            "head": repr(self.head_spec(network)),
            "precision": self.spec.precision,
            "images": self.image_hashes(),
            "checks": code_sha256(("parity", "runtimes", *IMAGE_CODE)),
            "runtimes": [*runtimes(self.spec.cpu_precision), tool_versions((*RUNTIME_TOOLS, *IMAGE_TOOLS))],
        }
        return self.run("parity", inputs, lambda _: self._measure(original, network, served)).result

    def compile_checks(self, served: OnnxModel, fleet: Sequence[GpuServing]) -> dict[str, CompileCheck]:
        """What TensorRT-RTX says to the served graph for each GPU, by name; it needs no GPU for it.

        Raises:
            ExportError: TensorRT's parser cannot read the graph.
        """
        from builder.plans import profiles_for

        made: dict[tuple[Any, ...], CompileCheck] = {}
        for each in fleet:
            key = (each.gpu.compute_capability, profiles_for(each))
            if key not in made:
                made[key] = self._compile_check(served, *key)
        return {each.gpu.name: made[each.gpu.compute_capability, profiles_for(each)] for each in fleet}

    def _compile_check(self, served: OnnxModel, compute_capability: str, profiles: tuple[Profile, ...]) -> CompileCheck:
        from builder.compile_check import CompileCheck, Outcome, check_compiles

        def make(_: Path) -> dict[str, Any]:
            (check,) = check_compiles(served, [compute_capability], profiles, progress=self.progress)
            return check.to_json()

        inputs = {
            "graph": served.sha256,
            "compute_capability": compute_capability,
            "profiles": [repr(each) for each in profiles],
            "code": code_sha256(("compile_check", "engine", "engine_callbacks", "engine_network")),
            "tools": tool_versions(COMPILE_TOOLS),
        }
        stage = self.cache.run("compile", inputs, make)
        check = CompileCheck(**stage.result | {"outcome": Outcome(stage.result["outcome"])})
        if check.outcome not in (Outcome.COMPILED, Outcome.REFUSED):  # another time it may end otherwise
            # Before it is told, which a Ctrl-C may end: it reaches the compiler's process, too.
            self.cache.forget(stage)
        self.tell(stage)
        return check

    def head_spec(self, network: NetworkModel) -> HeadSpec:
        """What is attached to ``network``."""
        return HeadSpec(
            head=self.spec.head,
            imgsz=network.imgsz,
            strides=network.strides,
            reg_max=network.reg_max,
            classes=len(network.names),
            nms_free=network.nms_free,
            iou=self.spec.iou,
            candidates=self.spec.candidates,
            max_detections=self.spec.max_detections,
        )

    def run(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Stage:
        """The stage ``name``, found or made, and told of."""
        return self.tell(self.cache.run(name, inputs, make))

    def tell(self, stage: Stage) -> Stage:
        """The stage, told of."""
        self.done.append(stage)
        self.report(stage)
        return stage

    def _source_inputs(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "weights": self.weights_sha256,
            "format": self.weights.suffix.lower(),
            "model": [spec.model, file_sha256(Path(spec.model)) if spec.model and Path(spec.model).is_file() else None],
            "names": spec.names,
            "imgsz": spec.imgsz,
            "allow_partial": spec.allow_partial,
            "trust_weights": spec.trust_weights,
            "code": code_sha256(("weights", "checkpoint", "model_description", "export", *ONNX_CODE)),
            "tools": tool_versions(TORCH_TOOLS),
        }

    def _export(self, folder: Path) -> dict[str, Any]:
        from builder.export import export_network
        from builder.onnx_weights import import_onnx

        path = folder / NETWORK_FILE
        if self.spec.is_onnx:
            network, note = import_onnx(self.weights, self.spec.imgsz, self.spec.names, path)
            return {**network.to_json(), "note": note}
        return export_network(self._load(), self.spec.imgsz, path).to_json()

    def _load(self) -> Network:
        from builder.weights import load_network

        spec = self.spec
        return load_network(
            self.weights,
            model_yaml=spec.model,
            names=spec.names,
            allow_partial=spec.allow_partial,
            trust=spec.trust_weights,
        )

    def _measure(self, original: NetworkModel, network: NetworkModel, served: OnnxModel) -> dict[str, Any]:
        from builder import parity

        spec, images = self.head_spec(network), self._letterboxed(network.imgsz)
        if self.spec.is_onnx:
            reference = parity.onnx_reference(original, images, spec)
        else:
            reference = parity.torch_reference(self._load(), images, spec.iou, spec.max_detections)
        on_cpu = self.spec.cpu_precision
        report = parity.measure_parity(reference, network, served.path, images, spec, cpu_precision=on_cpu)
        parity.check_parity(report, self.spec.precision)
        return report.to_json()

    def _letterboxed(self, imgsz: tuple[int, int]) -> NDArray[np.uint8]:
        """UINT8 [B, H, W, 3] RGB: the parity images as a client would send them."""
        import numpy as np

        from clients.errors import ImageError
        from clients.images import read_image
        from clients.letterbox import letterbox

        try:
            return np.stack([letterbox(read_image(image), imgsz)[0] for image in self.images])
        except ImageError as e:
            raise SpecError(f"--images: {e}") from e

    def pixels(self, imgsz: tuple[int, int]) -> NDArray[np.float32]:
        """FP32 [B, 3, H, W] RGB in [0, 1]: the parity images as the network takes them."""
        from builder.parity import to_pixels

        return to_pixels(self._letterboxed(imgsz))

    def image_hashes(self) -> list[str]:
        """Of the parity images."""
        return [file_sha256(image) for image in self.images]


def bundled_images() -> tuple[Path, ...]:
    """Two photographs that come with Ultralytics; found without importing it, which would take seconds."""
    import importlib.util

    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise SpecError("ultralytics is not installed: pip install 'yolo-triton[builder]'.")
    assets = Path(spec.origin).parent / "assets"
    return assets / "bus.jpg", assets / "zidane.jpg"


def network_identity(network: NetworkModel) -> dict[str, Any]:
    """What a stage that takes the network is cached by."""
    return network.to_json() | {"sha256": file_sha256(network.path)}


def _interface(path: Path) -> dict[str, Any]:
    """The inputs and outputs of an ONNX file, as JSON, in Triton's names of types and without the batch."""
    import onnx
    from onnx import TensorProto

    names: dict[int, str] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.UINT8: "UINT8"}
    graph = onnx.load(path, load_external_data=False).graph

    def describe(value: onnx.ValueInfoProto) -> dict[str, Any]:
        tensor = value.type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim[1:]]
        return {"name": value.name, "dtype": names[tensor.elem_type], "shape": shape}

    return {"inputs": [describe(v) for v in graph.input], "outputs": [describe(v) for v in graph.output]}


def _tensors(values: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=v["name"], dtype=v["dtype"], shape=tuple(v["shape"])) for v in values)
