"""The table of Triton's releases, and what can be asked of it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from builder.errors import SpecError
from builder.releases import (
    DEFAULT_RELEASE,
    FIRST_PYTHON_TOO_NEW,
    OLDEST_PYTHON,
    TritonRelease,
    find_release,
    parts,
    release_of_server,
    releases,
    same_version,
)


class TestTable:
    def test_holds_every_month_of_its_span(self):
        names = list(releases())
        months = [f"{year}.{month:02}" for year in range(24, 28) for month in range(1, 13)]
        assert names == months[months.index(names[0]) : months.index(names[-1]) + 1]

    def test_servers_count_up_month_by_month(self):
        minors = [parts(each.server)[1] for each in releases().values()]
        assert minors == sorted(minors)
        assert releases()["24.10"].server == "2.51"
        assert releases()["26.09"].server == "2.73.0"

    def test_tensorrt_and_cuda_never_go_back(self):
        tensorrt = [parts(each.tensorrt)[:3] for each in releases().values() if each.tensorrt]
        cuda = [parts(each.cuda) for each in releases().values()]
        assert tensorrt == sorted(tensorrt)
        assert cuda == sorted(cuda)

    def test_the_default_is_the_newest_of_which_all_is_known(self):
        known = [each.name for each in releases().values() if each.known]
        assert known[-1] == DEFAULT_RELEASE

    @pytest.mark.parametrize(("name", "driver"), [("25.06", "525.60.13"), ("25.08", "580.65.06")])
    def test_the_driver_follows_from_cudas_major(self, name, driver):
        assert releases()[name].minimal_driver == driver

    def test_what_is_not_confirmed_is_none(self):
        assert releases()["25.08"].tensorrt is None
        assert not releases()["25.08"].known

    def test_a_number_in_place_of_a_version_is_refused(self):
        with pytest.raises(ValueError, match=r"26\.10: expected tensorrt such as .* got 11\.1"):
            TritonRelease(name="26.10", tensorrt=11.1)

    def test_a_name_that_yaml_read_as_a_number_is_refused(self):
        with pytest.raises(ValueError, match=r"expected a release such as '26\.09', got 26\.1"):
            TritonRelease(name=yaml.safe_load("26.10"))

    def test_a_driver_that_is_no_version_is_refused(self):
        with pytest.raises(ValueError, match="expected drivers"):
            TritonRelease(name="26.09", data_centre_drivers=("R535",))

    def test_a_gap_that_is_no_version_is_refused(self):
        with pytest.raises(ValueError, match="expected gpu_gaps"):
            TritonRelease(name="26.09", gpu_gaps=("thor",))

    def test_ceilings_and_floors_never_go_back(self):
        for field in ("gpu_floor", "gpu_ceiling"):
            bounds = [parts(getattr(each, field)) for each in releases().values() if getattr(each, field)]
            assert bounds == sorted(bounds)

    def test_no_release_before_cuda_12_8_knows_blackwell(self):
        for each in releases().values():
            assert (each.takes("12.0") is True) == (parts(each.cuda) >= (12, 8))


class TestTakes:
    @pytest.mark.parametrize("name", ["24.04", "24.09", "24.12"])
    @pytest.mark.parametrize("capability", ["10.0", "11.0", "12.0"])
    def test_no_gpu_that_came_later(self, name, capability):
        assert find_release(name).takes(capability) is False

    @pytest.mark.parametrize("name", ["24.04", "24.09", "25.01", "25.10", "26.09", "26.10"])
    @pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "9.0"])
    def test_what_lies_between(self, name, capability):
        assert find_release(name).takes(capability) is True

    @pytest.mark.parametrize(
        ("name", "capability", "taken"),
        [
            ("25.01", "12.0", True),
            ("25.01", "11.0", False),
            ("25.08", "11.0", True),
            ("25.10", "10.3", False),
            ("25.10", "12.1", False),
            ("25.11", "10.3", True),
            ("25.11", "12.1", True),
            ("26.01", "12.1", True),
            ("26.01", "13.0", None),
            ("26.09", "11.0", False),
            ("24.10", "7.0", True),
            ("24.09", "7.0", True),
            ("25.03", "7.0", False),
            ("26.01", "11.0", None),
            ("26.10", "8.7", None),
            ("26.10", "7.0", False),
            ("24.11", "7.0", None),
        ],
    )
    def test_what_the_table_says_and_nothing_more(self, name, capability, taken):
        assert find_release(name).takes(capability) is taken

    def test_no_word_that_is_no_version(self):
        with pytest.raises(SpecError, match="expected a version"):
            find_release("26.09").takes("blackwell")


class TestBuildsPlans:
    @pytest.mark.parametrize(
        ("name", "builds"), [("24.04", False), ("24.10", False), ("24.11", True), ("25.07", True), ("26.09", None)]
    )
    def test_follows_from_the_images_python(self, name, builds):
        assert find_release(name).builds_plans is builds

    def test_a_python_that_is_too_new_does_not(self):
        assert TritonRelease(name="27.01", python="3.13").builds_plans is False

    def test_agrees_with_what_the_project_requires(self):
        text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
        requires = tomllib.loads(text)["project"]["requires-python"]
        assert requires == f">={'.'.join(map(str, OLDEST_PYTHON))},<{'.'.join(map(str, FIRST_PYTHON_TOO_NEW))}"


class TestFindRelease:
    def test_names_the_image(self):
        assert find_release("26.09").image == "nvcr.io/nvidia/tritonserver:26.09-py3"

    @pytest.mark.parametrize("name", ["26.09", " 26.09 ", "26.09-py3", "nvcr.io/nvidia/tritonserver:26.09-py3"])
    def test_takes_a_tag_and_an_image_too(self, name):
        assert find_release(name) is releases()["26.09"]

    @pytest.mark.parametrize(("name", "nearest"), [("31.01", "26.10"), ("23.12", "24.04")])
    def test_an_unknown_release_names_the_nearest(self, name, nearest):
        with pytest.raises(SpecError, match=f"unknown Triton release '{name}', nearest: {nearest}; expected one of"):
            find_release(name)

    @pytest.mark.parametrize("name", ["", "latest", "26.9", "26.13", "2.73"])
    def test_what_is_no_release_lists_them(self, name):
        with pytest.raises(SpecError, match=f"unknown Triton release {re.escape(repr(name))}; expected one of: 24"):
            find_release(name)


class TestReleaseOfServer:
    @pytest.mark.parametrize(("version", "name"), [("2.51", "24.10"), ("2.51.0", "24.10"), ("2.59.1", "25.07")])
    def test_finds_it(self, version, name):
        assert release_of_server(version).name == name

    def test_one_that_is_in_two_releases_names_both(self):
        with pytest.raises(SpecError, match=r"2\.59 is in 25\.06 \(2\.59\.0\) and 25\.07 \(2\.59\.1\)"):
            release_of_server("2.59")

    @pytest.mark.parametrize("version", ["2.12", "9.1.0", "2"])
    def test_an_unknown_one_tells_the_span(self, version):
        with pytest.raises(SpecError, match=r"unknown tritonserver version .* known are 2\.45 \(24\.04\) to "):
            release_of_server(version)

    def test_what_is_no_version_is_refused(self):
        with pytest.raises(SpecError, match="expected a version"):
            release_of_server("2.51.0dev")


class TestVersions:
    def test_agree_where_both_have_numbers(self):
        assert same_version("11.3", "11.3.0.99")
        assert same_version("580.65.06", "580.65.6")
        assert not same_version("8.6.1.2", "8.6.1.6")
        assert not same_version("11.3", "11.30")

    @pytest.mark.parametrize(
        "version", ["10.14.1.48", "10.14.1.48.post1", "10.14.1.48+cuda13.0", "10.14.1.48-1+cuda13.0"]
    )
    def test_of_wheels_and_images_are_numbers_too(self, version):
        assert parts(version) == (10, 14, 1, 48)

    @pytest.mark.parametrize("version", ["", "post1", "10.", "10.14rc1", "1.2.3.4.5", None])
    def test_that_are_none_are_refused(self, version):
        with pytest.raises(SpecError, match="expected a version such as"):
            parts(version)

    def test_a_plan_runs_in_the_tensorrt_that_built_it_alone(self):
        release = find_release("25.10")
        assert release.runs_plan_of("10.13.3.9") is True
        assert release.runs_plan_of("10.13.2.6") is False

    def test_nothing_is_said_of_a_plan_where_the_release_is_not_known(self):
        assert find_release("25.08").runs_plan_of("10.13.2.6") is None
