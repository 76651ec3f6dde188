"""``python -m builder gpus``: the table, and the same as JSON."""

import argparse
import json

import pytest

from builder import gpus_command
from builder.gpus import find_gpu, known_gpus, mig_slices


@pytest.fixture
def printed(capsys):
    def run(*flags):
        parser = argparse.ArgumentParser()
        gpus_command.add_arguments(parser)
        assert gpus_command.run(parser.parse_args(flags)) == 0
        return capsys.readouterr().out

    return run


def cells(line):
    return line.split()


def test_the_table_has_a_row_for_each_gpu(printed):
    lines = printed().splitlines()
    assert [cells(line)[0] for line in lines[1 : 1 + len(known_gpus())]] == list(known_gpus())
    assert cells(lines[0]) == cells("name CC memory GB GB/s FP16 TFLOPS INT8 TOPS PCIe W MIG")
    assert cells(lines[1]) == ["t4", "7.5", "16", "320", "65", "130", "3", "70", "-"]
    rows = {cells(line)[0]: cells(line) for line in lines if line}
    assert rows["a100-40gb"] == ["a100-40gb", "8.0", "40", "1555", "312", "624", "4", "400", "7"]
    assert rows["rtx-4090"] == ["rtx-4090", "8.9", "24", "1008", "330*", "661", "4", "450", "-"]


def test_the_columns_are_aligned(printed):
    header, *rows = printed("--mig").splitlines()
    table = rows[: rows.index("")]
    assert {len(row) for row in table} == {len(header)}


def test_the_notes_explain_the_star_and_what_is_not_supported(printed):
    out = printed()
    assert "*: with FP16 accumulation" in out
    assert "no build for jetson-agx-xavier" in out


def test_slices_are_listed_under_their_gpu_as_the_flag_takes_them(printed):
    names = [cells(line)[0] for line in printed("--mig").splitlines() if line]
    assert names[names.index("a30") + 1 :][:3] == ["a30:1g.6gb", "a30:2g.12gb", "a30:4g.24gb"]
    assert set(mig_slices()) <= set(names)
    assert not any(":" in cells(line)[0] for line in printed().split("\n\n")[0].splitlines())


def test_json_holds_every_figure_and_every_name_in_it_is_found(printed):
    told = json.loads(printed("--json"))
    assert [each["gpu"] for each in told] == list(known_gpus())
    for each in told:
        gpu = known_gpus()[each["gpu"]]
        assert each["supported"] == gpu.supported
        assert (each["memory_gb"], each["fp16_tflops"], each["watts"]) == (gpu.memory_gb, gpu.fp16_tflops, gpu.watts)
        for cut in each["mig_slices"]:
            assert find_gpu(cut["gpu"]).name == cut["name"]
            assert find_gpu(cut["gpu"]).memory_gb == cut["memory_gb"]
            assert 1 <= cut["instances"] <= each["mig_instances"]
