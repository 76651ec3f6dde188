"""The doctor and a real tritonserver about the same models: what one finds before, the other refuses to load."""

import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import builder.backends
from builder.doctor.diagnosis import diagnose
from builder.doctor.findings import Severity
from builder.errors import ServerError
from builder.server import ServerOptions, TritonServer
from tests.published import publish_shapes

STEP = """
name: "{name}"
platform: "ensemble"
max_batch_size: 8
input [{{ name: "picture" data_type: TYPE_UINT8 dims: [4, 3] }}]
output [{{ name: "both" data_type: TYPE_FP32 dims: [2] }}]
ensemble_scheduling {{
  step [{{
    model_name: "{step}" model_version: {version}
    input_map {{ key: "images" value: "picture" }} output_map {{ key: "sums" value: "both" }}
  }}]
}}
"""
WARMUP = """
model_warmup [{{
  name: "one" batch_size: {batch}
  inputs {{ key: "{input}" value {{ data_type: TYPE_UINT8 dims: [{pixels}, 3] {data} }} }}
}}]
"""
CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answer = np.zeros((1, 2), np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("sums", answer)]) for _ in requests]
"""


def warmup(**values):
    return WARMUP.format(**{"batch": 1, "input": "images", "pixels": 4, "data": "random_data: true"} | values)


# A warmup above max_batch_size is left out: tritonserver 2.51 refuses it ("max allowed is 8"), and may crash over it.
# Each a line of config.pbtxt to add or (old, new) to replace, the doctor's check, and what the server says.
FAULTS = {
    "labels": (("dims: [2]", 'dims: [2] label_filename: "1/gone.txt"'), "labels-missing", "failed to open text file"),
    "version": ("version_policy { specific { versions: [2] } }", "version-missing", "at least one version must be"),
    "priority": ("dynamic_batching { priority_levels: 2 }", "priority-default", r"must be in range \[1, 2\]"),
    "priority_beyond": (
        "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
        "priority-default",
        r"must be in range \[1, 2\]",
    ),
    "policy": (
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
        "priority_queue_policy { key: 5 value { max_queue_size: 8 } } }",
        "priority-policy",
        r"priority level in range \[1, 2\]",
    ),
    "preferred": ("dynamic_batching { preferred_batch_size: [16] }", "preferred-batch", "must be <= max batch size"),
    "syntax": (("max_batch_size", "max_batch"), "config-syntax", "failed to read text proto"),
    "name": (('name: "name"', 'name: "other"'), "config-name", "directory name must equal model name"),
    "backend": (('"python"', '"pythn"'), "backend-unknown", "unable to find backend library for backend 'pythn'"),
    "warmup_file": (warmup(data='input_data_file: "gone.raw"'), "warmup", "failed to open text file"),
    "warmup_dims": (warmup(pixels=5), "warmup", "unexpected shape for input 'images'"),
    "warmup_input": (warmup(input="pictures"), "warmup", r"missing required input\(s\) \['images'\]"),
    "warmup_data": (warmup(data=""), "warmup", "to have input_data_type set"),
}
ENSEMBLES = {
    "ensemble_model": ("gone", -1, "contains models that are not available"),
    "ensemble_version": ("good", 7, "required version 7 is not loaded"),
}
# The block that is left out, and what the server says.
OPEN_ENSEMBLES = {
    "ensemble_without_inputs": ("input", "depending tensors, 'picture', is not connected"),
    "ensemble_without_outputs": ("output", "ensemble tensor 'both' is unused"),
}
LOADED = {
    "good": ("", None),
    "warm": (warmup(batch=8), None),
    "one_of_two": ("version_policy { specific { versions: [1, 2] } }", "version-missing"),
    "unnamed": (('backend: "python"', ""), "backend-unnamed"),
    "linked": ("", None),
    "linked_version": ("", None),
}
# Where a link to nothing is laid, and whether tritonserver loads the model all the same.
DEAD_LINKS = {
    "dead_in_model": ("dead", False),
    "dead_version": ("7", False),
    "dead_configs": ("configs", False),
    "dead_in_version": ("1/dead", True),
    "dead_in_old_version": ("1/dead", True),
    "dead_config": ("configs/cpu.pbtxt", True),
}
NO_MODELS = ("lost+found", "self")


@pytest.fixture(scope="module")
def repository(tmp_path_factory, write_model):
    repository = tmp_path_factory.mktemp("doctor") / "repository"
    for name, (slip, *_) in {**FAULTS, **LOADED}.items():
        config = write_model(repository, name, code=CODE, more=slip if isinstance(slip, str) else "") / "config.pbtxt"
        if not isinstance(slip, str):
            right, wrong = slip
            assert right in config.read_text()
            config.write_text(config.read_text().replace(right, wrong, 1))
    steps = {name: (step, version) for name, (step, version, _) in ENSEMBLES.items()}
    for name, (step, version) in {**steps, "ensemble_bare": ("good", -1), "ensemble": ("good", 1)}.items():
        folder = repository / name
        (folder if name == "ensemble_bare" else folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(STEP.format(name=name, step=step, version=version))
    for name, (block, _) in OPEN_ENSEMBLES.items():
        (repository / name / "1").mkdir(parents=True)
        text = STEP.format(name=name, step="good", version=1).replace(f"{block} [", f"# {block} [")
        (repository / name / "config.pbtxt").write_text(text)
    (repository / "no_config" / "1").mkdir(parents=True)
    (repository / ".hidden" / "1").mkdir(parents=True)
    for name, (place, _) in DEAD_LINKS.items():
        model = write_model(repository, name, code=CODE)
        if name == "dead_in_old_version":
            shutil.copytree(model / "1", model / "2")
        (model / place).parent.mkdir(exist_ok=True)
        (model / place).symlink_to("/nowhere")
    (repository / "lost+found").mkdir()
    (repository / "self").symlink_to(".")
    for path in (repository / "linked", repository / "linked_version" / "1"):
        target = repository.parent / f"elsewhere_{path.name}"
        path.rename(target)
        path.symlink_to(target)
    return repository


@pytest.fixture(scope="module")
def log(repository, triton_server):
    """What the server says of all these models at one start, a line each."""
    path = repository.parent / "log"
    with pytest.raises(ServerError):
        triton_server(repository, log_file=path)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def findings(repository):
    """What the doctor finds, by model."""
    found = {}
    for each in diagnose(repository):
        found.setdefault(each.where.split("/")[0], []).append(each)
    return found


def complaints(log, name):
    return [
        line for line in log if re.match(r"E\d{4}", line) and re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", line)
    ]


class TestBoth:
    @pytest.mark.parametrize("name", FAULTS)
    def test_refuse_the_model(self, log, findings, name):
        _, check, said = FAULTS[name]
        assert any(re.search(said, line) for line in complaints(log, name))
        assert {(each.check, each.severity) for each in findings[name]} == {(check, Severity.FAILS)}

    @pytest.mark.parametrize("name", ENSEMBLES)
    def test_refuse_the_ensemble(self, log, findings, name):
        assert any(ENSEMBLES[name][2] in line for line in complaints(log, name))
        assert [each.check for each in findings[name]] == ["ensemble-step"]

    def test_refuse_an_ensemble_without_a_version(self, log, findings):
        assert any("at least one version must be available" in line for line in complaints(log, "ensemble_bare"))
        assert [each.check for each in findings["ensemble_bare"]] == ["version-missing"]

    @pytest.mark.parametrize("name", OPEN_ENSEMBLES)
    def test_refuse_an_ensemble_without_inputs_or_outputs(self, log, findings, name):
        assert any(OPEN_ENSEMBLES[name][1] in line for line in complaints(log, name))
        assert [each.check for each in findings[name]] == ["ensemble-ends"]

    @pytest.mark.parametrize("name", DEAD_LINKS)
    def test_agree_about_links_to_nothing(self, log, findings, name):
        place, loads = DEAD_LINKS[name]
        assert any("failed to stat file" in line for line in complaints(log, name))
        assert any(f"successfully loaded '{name}'" in line for line in log) is loads
        severity = Severity.WARNING if loads else Severity.FAILS
        assert [(each.check, each.where, each.severity) for each in findings[name]] == [
            ("dead-link", f"{name}/{place}", severity)
        ]

    @pytest.mark.parametrize("name", NO_MODELS)
    def test_refuse_a_folder_that_is_no_model(self, log, findings, name):
        assert any("failed to open text file" in line for line in complaints(log, name))
        assert [(each.check, each.severity) for each in findings[name]] == [("no-model", Severity.FAILS)]

    @pytest.mark.parametrize(("name", "check"), [("no_config", "config-missing"), (".hidden", "hidden-folder")])
    def test_refuse_a_folder_without_a_configuration(self, log, findings, name, check):
        assert any("failed to open text file" in line for line in complaints(log, name))
        assert [(each.check, each.severity) for each in findings[name]] == [(check, Severity.FAILS)]

    @pytest.mark.parametrize("name", [*LOADED, "ensemble"])
    def test_let_the_model_pass(self, log, findings, name):
        assert any(f"successfully loaded '{name}'" in line for line in log)
        check = LOADED.get(name, ("", None))[1]
        assert [(each.check, each.severity) for each in findings.get(name, [])] == (
            [(check, Severity.WARNING)] if check else []
        )


@pytest.mark.parametrize("name", ["dead", ".dead"])
def test_one_link_to_nothing_beside_the_models_takes_all_of_them_down(tmp_path, write_model, triton_server, name):
    repository, log_file = tmp_path / "repository", tmp_path / "log"
    write_model(repository, "good", code=CODE)
    (repository / name).symlink_to("/nowhere")
    with pytest.raises(ServerError, match="failed to load all models"):
        triton_server(repository, log_file=log_file)
    assert f"failed to stat file {repository / name}" in log_file.read_text()
    (finding,) = diagnose(repository)
    assert (finding.check, finding.where, finding.severity) == ("dead-link", name, Severity.FAILS)


@pytest.mark.parametrize(
    ("cut", "checks", "said"),
    [
        (None, {"config-empty"}, "unable to find backend library for backend 'onnxruntime'"),
        # Taking the model down, tritonserver 2.51 itself may die before it has said why.
        (("input", "output"), {"input-name", "output-name"}, "failed to run warmup sample|killed by SIGSEGV"),
    ],
    ids=["all", "inputs and outputs"],
)
def test_a_configuration_of_ours_that_lost_its_blocks_is_refused(tmp_path, triton_server, cut, checks, said):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    repository = tmp_path / "repository"
    version = publish_shapes(repository, tmp_path)
    shutil.copy(Path(*builder.backends.__path__, "openvino_model.py"), version / "model.py")
    path = repository / "shapes" / "configs" / "cpu.pbtxt"
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    for field in cut or [each.name for each, _ in config.ListFields()]:
        config.ClearField(field)
    path.write_text(text_format.MessageToString(config))
    with pytest.raises(ServerError, match=said):
        triton_server(repository, config_name="cpu")
    failing = {each.check for each in diagnose(repository) if each.severity is Severity.FAILS}
    assert failing == checks


def test_a_missing_model_py_is_found_where_the_server_waits_for_it(tmp_path, write_model, free_ports):
    repository, log_file = tmp_path / "repository", tmp_path / "log"
    (write_model(repository, "bare", code=CODE) / "1" / "model.py").unlink()
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    server = TritonServer(ServerOptions(repository=repository, log_file=log_file, **ports))
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(server.start)
        while not (log_file.exists() and "Python model file not found" in log_file.read_text()):
            assert not start.done()
            time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"killed by SIGKILL: .*Python model file not found"):
            start.result()
    (finding,) = diagnose(repository)
    assert (finding.check, finding.where) == ("file-missing", "bare/1/model.py")
    assert "tritonserver waits for it for ever" in finding.what
