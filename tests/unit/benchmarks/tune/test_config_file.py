"""The tuned configuration holds what is searched, and everything else of the one before."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from benchmarks.tune.config_file import (
    as_json,
    config_path,
    input_of,
    most_instances,
    read_config,
    settings_in,
    with_settings,
    write_config,
)
from builder.errors import RepositoryError, SpecError
from builder.serving import ServingSettings

CONFIG = """
name: "detector"
backend: "tensorrt"
max_batch_size: 16
version_policy { specific { versions: [3] } }
input [{ name: "images" data_type: TYPE_UINT8 dims: [64, 64, 3] }]
output [{ name: "detections" data_type: TYPE_FP32 dims: [300, 6] }]
instance_group [{ count: 2 kind: KIND_GPU gpus: [1] }]
dynamic_batching {
  max_queue_delay_microseconds: 500
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 900000 max_queue_size: 64 }
  priority_levels: 3
  default_priority_level: 2
}
parameters { key: "contract" value { string_value: "detections/1" } }
model_warmup {
  name: "batch_1" batch_size: 1
  inputs { key: "images" value { data_type: TYPE_UINT8 dims: [64, 64, 3] zero_data: true } }
}
model_warmup {
  name: "batch_16" batch_size: 16
  inputs { key: "images" value { data_type: TYPE_UINT8 dims: [64, 64, 3] zero_data: true } }
}
optimization {
  cuda { graphs: true graph_spec { batch_size: 1 } graph_spec { batch_size: 4 } graph_spec { batch_size: 16 } }
}
"""


def settings(**changed):
    return ServingSettings(
        **{"max_batch": 4, "instances": 3, "max_queue_delay_us": 2000, "max_queue_size": 20, **changed}
    )


@pytest.fixture
def path(tmp_path):
    path = config_path(tmp_path, "detector", "t4")
    path.parent.mkdir(parents=True)
    path.write_text(CONFIG)
    return path


def test_settings_are_read_as_they_are(path):
    found = settings_in(read_config(path))
    assert found == ServingSettings(
        max_batch=16, instances=2, max_queue_delay_us=500, max_queue_size=64, queue_timeout_ms=900, priority_levels=3
    )


def test_only_what_is_searched_changes(path):
    before = read_config(path)
    after = with_settings(before, settings())
    assert settings_in(after) == settings(queue_timeout_ms=900, priority_levels=3)
    assert [(each.name, each.batch_size) for each in after.model_warmup] == [("batch_1", 1), ("batch_4", 4)]
    assert [each.batch_size for each in after.optimization.cuda.graph_spec] == [1, 4]
    # Put back, it is what it was, but for the graphs that cannot be guessed.
    back = with_settings(after, settings_in(before))
    back.optimization.cuda.graph_spec.add(batch_size=16)
    assert back == before


def test_settings_without_bound_and_timeout_have_no_queue_policy(path):
    after = with_settings(read_config(path), settings(max_queue_size=0, queue_timeout_ms=0))
    assert not after.dynamic_batching.HasField("default_queue_policy")
    assert after.dynamic_batching.priority_levels == 3
    timed = with_settings(read_config(path), settings(max_queue_size=0, queue_timeout_ms=900))
    assert timed.dynamic_batching.default_queue_policy.default_timeout_microseconds == 900_000
    assert timed.dynamic_batching.default_queue_policy.max_queue_size == 0


def test_a_larger_batch_is_warmed_up_too(path):
    after = with_settings(read_config(path), settings(max_batch=32, max_queue_size=64))
    assert [(each.name, each.batch_size) for each in after.model_warmup] == [("batch_1", 1), ("batch_32", 32)]


def test_batches_of_one_are_warmed_up_once(path):
    after = with_settings(read_config(path), settings(max_batch=1))
    assert [each.batch_size for each in after.model_warmup] == [1]


def test_a_configuration_without_batcher_or_instances_gets_them(path):
    config = read_config(path)
    for part in ("dynamic_batching", "instance_group", "model_warmup", "optimization"):
        config.ClearField(part)
    after = with_settings(config, settings(max_queue_size=0, queue_timeout_ms=0))
    assert settings_in(after) == settings(max_queue_size=0, queue_timeout_ms=0)
    assert not after.HasField("optimization")
    assert not after.dynamic_batching.HasField("default_queue_policy")


def test_what_is_written_is_what_triton_parses(path):
    config = with_settings(read_config(path), settings())
    write_config(path, config)
    assert read_config(path) == config
    assert [each.name for each in path.parent.iterdir()] == ["t4.pbtxt"]


def test_a_failed_write_leaves_what_was_there(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builder.durable.sync", full)
    with pytest.raises(RepositoryError, match="No space left on device; what was there is unchanged"):
        write_config(path, with_settings(read_config(path), settings()))
    assert path.read_text() == CONFIG
    assert [each.name for each in path.parent.iterdir()] == ["t4.pbtxt"]


def test_what_is_loaded_through_the_api_is_the_same_message(path):
    from google.protobuf import json_format

    config = with_settings(read_config(path), settings())
    assert json_format.Parse(as_json(config), pb.ModelConfig()) == config


def test_input_is_one_image(path):
    config = read_config(path)
    assert input_of(config) == ("images", (64, 64, 3))
    config.input[0].dims[0] = -1
    with pytest.raises(SpecError, match="fixed shape"):
        input_of(config)


def test_instances_of_a_cpu_are_no_more_than_its_cores(path, monkeypatch):
    config = read_config(path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert most_instances(config) == 4
    config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
    assert most_instances(config) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("max_batch_size: 0", "max_batch_size is 0"),
        ("instance_group { count: 1 }", "one instance_group, got 2"),
        ('input { name: "more" }', "one input, got 2"),
        ('ensemble_scheduling { step { model_name: "inner" } }', "tune its steps: inner"),
    ],
)
def test_what_cannot_be_tuned_is_refused(path, change, message):
    config = text_format.Parse(CONFIG, pb.ModelConfig())
    if change.startswith("max_batch_size"):
        config.max_batch_size = 0
    else:
        if change.startswith("ensemble"):
            config.ClearField("dynamic_batching")
        config.MergeFrom(text_format.Parse(change, pb.ModelConfig()))
    path.write_text(text_format.MessageToString(config))
    with pytest.raises(SpecError, match=message):
        read_config(path)


def test_a_file_that_is_none_is_one_line(path):
    path.write_text("max_batch_size: many")
    with pytest.raises(RepositoryError, match="expected a Triton model configuration") as error:
        read_config(path)
    assert "\n" not in str(error.value)
    with pytest.raises(RepositoryError, match="found none"):
        read_config(path.with_name("l4.pbtxt"))
