"""Check what speaks to TensorRT against its published type stubs: ``python tests/typing/tensorrt_stubs.py STUBS``.

STUBS is where ``pip install --no-deps --target STUBS tensorrt-stubs`` put them. They cannot lie in site-packages: as a
folder named ``tensorrt`` they would look like TensorRT itself. Version 10.13 holds a few signatures that are no Python;
a copy without them is checked against, and they are named. That the check can fail is checked, too.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKED = ("builder/engine.py", "builder/engine_network.py", "builder/engine_callbacks.py")
MOST_LEFT_OUT = 20
WRONG = "import tensorrt\n\ndef build(builder: tensorrt.Builder) -> None:\n    builder.build_serialised_network()\n"


def main(stubs: Path) -> int:
    """0 where the types agree; else 1, after what mypy says."""
    with tempfile.TemporaryDirectory() as scratch:
        mended = Path(scratch, "stubs")
        shutil.copytree(stubs, mended)
        left_out = [line for path in sorted(mended.rglob("*.pyi")) for line in mend(path)]
        if len(left_out) > MOST_LEFT_OUT:
            print(f"error: {len(left_out)} signatures of {stubs} are no Python; expected at most {MOST_LEFT_OUT}")
            return 1
        wrong = Path(scratch, "wrong.py")
        wrong.write_text(WRONG)
        slip = mypy(mended, scratch, str(wrong))
        if 'has no attribute "build_serialised_network"' not in slip.stdout:
            print(f"error: a call that TensorRT does not have was not found\n{slip.stdout}{slip.stderr}")
            return 1
        checked = mypy(mended, scratch, *CHECKED)
        print(f"{checked.stdout}{checked.stderr}".strip())
        print(f"against tensorrt-stubs, {len(left_out)} invalid signatures left out")
        return checked.returncode


def mend(path: Path) -> list[str]:
    """Take out of a stub file what is no Python; the first line of each statement that went."""
    lines, gone = path.read_text().splitlines(), []
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            first = (error.lineno or 1) - 1
            while not lines[first].strip():
                first -= 1
            last = first + 1
            indent = len(lines[first]) - len(lines[first].lstrip())
            while last < len(lines) and (not lines[last].strip() or _indent(lines[last]) > indent):
                last += 1
            gone.append(lines[first].strip())
            lines[first:last] = [" " * indent + "pass"]
        else:
            break
    path.write_text("\n".join(lines) + "\n")
    return gone


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def mypy(stubs: Path, scratch: str, *paths: str) -> subprocess.CompletedProcess[str]:
    """Mypy's verdict on the files, TensorRT's module being ``stubs``."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", f"{scratch}/cache", *paths]
    environment = os.environ | {"MYPYPATH": str(stubs)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
