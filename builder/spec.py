"""BuildSpec: the request of one build, from flags or from YAML with the same names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_serializer

from builder.artifacts import CpuPrecision, Head, Precision
from builder.engine import HardwareCompatibility
from builder.errors import SpecError
from builder.histograms import CalibrationMethod
from builder.serving import ServingRequest


def _two_sides(value: object) -> object:
    """``640``, ``384,640`` or ``[384, 640]`` as (height, width)."""
    if isinstance(value, str):
        sides = [part.strip() for part in value.split(",")]
        if len(sides) > 2 or not all(side.isdecimal() for side in sides):
            raise ValueError("expected one side or height,width in pixels, such as 640 or 384,640")
        value = sides
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list) and len(value) == 1:
        value = value * 2
    return value


def _gpu_list(value: object) -> object:
    """``t4,l4`` or a list."""
    if not isinstance(value, str | list | tuple):
        raise ValueError("expected a GPU's name or a list of names, such as t4 or [t4, l4]")
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _release_name(value: object) -> object:
    """A release; YAML reads 26.10 as the number 26.1."""
    if isinstance(value, int | float):
        raise ValueError("expected a release in quotes, such as '26.09'")
    return value


def _name_list(value: object) -> object:
    """``a,b``, a list, or names by number as Ultralytics writes them."""
    if isinstance(value, Mapping):
        if set(value) != set(range(len(value))):
            raise ValueError("expected class names numbered 0, 1, 2, … without gaps")
        return [value[number] for number in range(len(value))]
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _path_list(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


Side = Annotated[int, Field(ge=32, le=8192)]


LARGEST_BATCH = 256
"""More images in an execution gain no GPU anything, and all their answers wait for the last."""


class BuildSpec(BaseModel):
    """What ``python -m builder build`` was asked for; every field is a flag of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    weights: Path = Path("yolo11n.pt")
    """.pt or .onnx; a name that Ultralytics publishes is downloaded where no such file exists."""
    run_record: Path | None = None
    """The run.json of the training that wrote the weights; the one beside them where none is given."""
    model: str | None = None
    """The model description (a yaml) that a bare state_dict belongs to."""
    name: str | None = None
    """The model's name in the repository; the weights' stem where none is given."""
    names: Annotated[tuple[str, ...], BeforeValidator(_name_list)] | None = None
    """Class names, where the weights hold none."""
    gpu: Annotated[tuple[str, ...], BeforeValidator(_gpu_list), Field(min_length=1)] = ("t4",)
    """The fleet: the GPUs that will serve, each with its own plan, batching and memory."""
    precision: Precision = Precision.FP16
    cpu_precision: CpuPrecision = CpuPrecision.FP32
    """The arithmetic where a CPU serves."""
    head: Head = Head.DETECTIONS
    imgsz: Annotated[tuple[Side, Side], BeforeValidator(_two_sides)] | None = None
    """Height and width in pixels; the size that the weights were trained at where none is given, else 640."""
    iou: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Suppression threshold."""
    candidates: Annotated[int, Field(ge=1, le=2000)] = 512
    """Boxes per image, by confidence, that suppression looks at. FP16 counts exactly to 2048."""
    max_detections: Annotated[int, Field(ge=1, le=2000)] = 300
    sla_ms: Annotated[float, Field(gt=0, le=60_000)] | None = None
    """The latency that requests shall meet; batch, instances and queue are chosen for it where they are not given."""
    max_batch: Annotated[int, Field(ge=1, le=LARGEST_BATCH)] | None = None
    instances: Annotated[int, Field(ge=1, le=16)] | None = None
    """Model instances on each GPU."""
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    max_queue_size: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] | None = None
    """0 is no bound."""
    queue_timeout_ms: Annotated[int, Field(ge=0, le=24 * 3600 * 1000)] | None = None
    """0 is no limit."""
    priority_levels: Annotated[int, Field(ge=0, le=16)] = 0
    """Requests may name a level from 1, the most urgent, to this; 0 is one queue for all."""
    triton: Annotated[str, BeforeValidator(_release_name)] | None = None
    """The release that will serve, such as 26.09: plans are built in its TensorRT; the newest where none is given."""
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    """On which other GPUs a plan may run."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    """TensorRT's builder optimization level; its own default where none is given."""
    encoded: bool = False
    """Publish models beside the detector by which it takes JPEG, PNG and WebP."""
    images: Annotated[tuple[Path, ...], BeforeValidator(_path_list)] = ()
    """Pictures that parity is measured on; two that come with Ultralytics where none is given."""
    data: Path | None = None
    """An Ultralytics data.yaml: its val split is what accuracy is judged on, and the gate with it."""
    calibration: Path | None = None
    """What INT8 is calibrated on, a folder of images or a data.yaml's train split; ``data``'s where none is given."""
    calibration_images: Annotated[int, Field(ge=64, le=100_000)] = 512
    calibration_method: CalibrationMethod = CalibrationMethod.MSE
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw of calibration images."""
    max_map_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_confidence_drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    auto_mixed: bool = False
    """Where the gate refuses INT8, give layers back to FP16 until it passes."""
    repository: Path = Path("model_repository")
    cache: Path | None = None
    """Where finished stages are kept; the user's cache folder where none is given."""
    allow_partial: bool = False
    trust_weights: bool = False

    @field_serializer("model", when_used="json")
    def _model_without_its_folder(self, model: str | None) -> str | None:
        # Where things lie on the building machine says nothing of the build.
        return model and Path(model).name

    @property
    def serving_request(self) -> ServingRequest:
        """What each GPU's settings are chosen by."""
        return ServingRequest(
            max_batch=self.max_batch,
            instances=self.instances,
            max_queue_delay_us=self.max_queue_delay_us,
            max_queue_size=self.max_queue_size,
            queue_timeout_ms=self.queue_timeout_ms,
            priority_levels=self.priority_levels,
            sla_ms=self.sla_ms,
        )

    @property
    def is_onnx(self) -> bool:
        """Whether the weights are a user's graph."""
        return self.weights.suffix.lower() == ".onnx"

    @property
    def model_name(self) -> str:
        """The model's folder in the repository."""
        return self.weights.stem if self.name is None else self.name

    @classmethod
    def from_sources(cls, flags: Mapping[str, Any], spec_path: Path | None) -> BuildSpec:
        """Flags over the YAML at ``spec_path`` over the defaults.

        Paths in the YAML are relative to its folder. Weights and a model that are no file there, and have a bare name
        that Ultralytics may know (``yolo...``), stay that name.

        Raises:
            SpecError: an unreadable file, an unknown name (with the nearest), or a value out of its range.
        """
        values = {**(_read_yaml(spec_path) if spec_path else {}), **flags}
        for name in values:
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else f"; known: {', '.join(cls.model_fields)}."
                raise SpecError(f"{spec_path}: unknown name {name!r}{hint}")
        for name, value in values.items():
            # YAML's yes and no are numbers to pydantic, and a limit of 1 is none.
            if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
                raise SpecError(f"--{name.replace('_', '-')}: expected a value, it is {'yes' if value else 'no'}.")
        try:
            spec = cls.model_validate(values)
        except ValidationError as e:
            # Both sides of an imgsz may be wrong in the same way.
            raise SpecError("; ".join(dict.fromkeys(map(_describe, e.errors())))) from e
        if not spec.is_onnx and spec.weights.suffix.lower() != ".pt":
            raise SpecError(f"--weights {spec.weights}: expected a .pt or .onnx file.")
        if spec.encoded and spec.head is not Head.DETECTIONS:
            raise SpecError(f"--encoded: expected --head {Head.DETECTIONS}, got {spec.head}: its answer is no boxes.")
        spec._check_data()
        return spec

    def _check_data(self) -> None:
        if self.precision is Precision.INT8 and self.data is None:
            raise SpecError(
                "--precision int8: expected --data data.yaml, labelled images to calibrate on (its train split) and to "
                "judge by (its val split); without them nobody knows what INT8 loses."
            )
        if self.data is None:
            for name in sorted({"max_map_drop", "max_confidence_drop"} & self.model_fields_set):
                raise SpecError(
                    f"--{name.replace('_', '-')} is a limit of the gate, which needs labelled images: --data."
                )
        elif self.precision is Precision.FP32:
            raise SpecError("--data judges what FP16 or INT8 loses against FP32; --precision fp32 loses nothing.")
        if self.precision is not Precision.INT8:
            for name in sorted({"calibration", "auto_mixed"} & self.model_fields_set):
                raise SpecError(f"--{name.replace('_', '-')} belongs to --precision int8; it is {self.precision}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.load(path.read_text(), Loader=_strict_loader())  # noqa: S506  # a SafeLoader
    except OSError as e:
        raise SpecError(f"--spec {path} cannot be read: {e.strerror}.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise SpecError(f"--spec {path} is no YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict):
        raise SpecError(
            f"--spec {path}: expected names and values, such as 'gpu: t4'; it holds {type(content).__name__}."
        )
    values = {str(key).replace("-", "_"): value for key, value in content.items()}
    for key in ("repository", "cache", "data", "calibration", "run_record"):
        if isinstance(values.get(key), str):
            values[key] = path.parent / values[key]
    for key in ("weights", "model"):
        if isinstance(values.get(key), str):
            values[key] = _file_or_known_name(values[key], key, path)
    images = _path_list(values.get("images"))
    if isinstance(images, list) and all(isinstance(image, str) for image in images):
        values["images"] = [path.parent / image for image in images]
    return values


def _strict_loader() -> type[Any]:
    """PyYAML's safe loader, to which a name that is written twice is an error: YAML itself demands it."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if twice := sorted({str(name) for name in names if names.count(name) > 1}):
                raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader


def _file_or_known_name(value: str, key: str, spec_path: Path) -> str:
    """A path of the YAML as this process finds it, or a name as it is."""
    path = spec_path.parent / value
    if path.exists() or Path(value).name != value or not value.lower().startswith("yolo"):
        return str(path)
    # A name would be looked for in the current folder first, and the YAML mean another file from there.
    if Path(value).exists():
        raise SpecError(
            f"{spec_path}: {key}: {value} is not in {spec_path.parent}, but in the current folder; give the way to it "
            f"from the YAML's folder, or --{key} {value}."
        )
    return value


def _describe(error: Any) -> str:
    flag = "--" + str(error["loc"][0]).replace("_", "-") if error["loc"] else "the spec"
    return f"{flag}: {error['msg'].removeprefix('Value error, ')}; it was {error['input']!r}"
