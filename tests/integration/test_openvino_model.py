"""The OpenVINO model under many callers, against a real tritonserver."""

import threading

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from builder.errors import ServerError

CALLERS, ROUNDS = 6, 40
PRECISION = 'parameters {{ key: "inference_precision" value {{ string_value: "{}" }} }}'
THREADS = 'parameters {{ key: "inference_threads" value {{ string_value: "{}" }} }}'


def ask(client, model, images):
    tensor = grpcclient.InferInput("images", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    return client.infer(model, [tensor], client_timeout=60).as_numpy("sums")


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_model, triton_server):
    folder = tmp_path_factory.mktemp("repository")
    for threads in (1, 2, 8):
        write_model(folder, f"threads_{threads}", more=THREADS.format(threads) + "dynamic_batching {}")
    write_model(folder, "half", more=PRECISION.format("bf16"))
    return triton_server(folder)


@pytest.mark.parametrize("model", ["threads_1", "threads_2", "threads_8"])
def test_callers_at_once_each_get_the_answers_to_their_own_images(server, model):
    wrong, answered = [], []

    def call(caller):
        numbers = np.random.default_rng(caller)
        with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
            for _ in range(ROUNDS):
                images = numbers.integers(0, 256, (numbers.integers(1, 9), 4, 3), np.uint8)
                total = images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)
                answered.append(len(images))
                if not np.array_equal(ask(client, model, images), np.stack([total, total / 2], axis=1)):
                    wrong.append((caller, images))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answered) == CALLERS * ROUNDS
    assert wrong == []


def test_bf16_is_taken_where_asked_for(server):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    total = images.reshape(3, -1).sum(axis=1, dtype=np.float32)
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        np.testing.assert_allclose(ask(client, "half", images)[:, 0], total, rtol=2**-7)


def test_an_unknown_arithmetic_is_refused_by_name(tmp_path, write_model, triton_server):
    write_model(tmp_path, "strange", more=PRECISION.format("int3"))
    with pytest.raises(ServerError, match="inference_precision: expected f32 or bf16, got 'int3'"):
        triton_server(tmp_path)
