#!/bin/sh
# Builds the plan of this machine's GPU, inside nvcr.io/nvidia/tritonserver:YY.MM-py3 of the release that will serve it:
#
#     sh /project/deploy/build_plan.sh --repository /models --model NAME
#
# The arguments are those of "python3 -m builder plan". Triton loads only plans that its own TensorRT version has built:
# the Python package of exactly the image's version is used.
#
#     TENSORRT_PACKAGE   the package to install (default: tensorrt-cuNN, by the image's CUDA_VERSION)
#     PIP_...            pip's own settings, such as PIP_INDEX_URL, or PIP_NO_INDEX=1 and PIP_FIND_LINKS=/wheels
set -eu

project=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

# The number of one part, MAJOR to BUILD. Newer headers define NV_TENSORRT_* through TRT_*_ENTERPRISE.
header_number() {
    sed -nE "s/^#define (NV_TENSORRT_$1|TRT_$1_ENTERPRISE)[[:space:]]+([0-9]+).*/\2/p" "$2" | head -n 1
}

# The image's TensorRT, such as 10.13.3.9, or with what its package adds: 10.13.3.9-1+cuda13.0. Empty if unknown.
found_version() {
    if [ -n "${TRT_VERSION:-}" ]; then
        echo "$TRT_VERSION"
        return
    fi
    for folder in ${TENSORRT_INCLUDE:-/usr/local/tensorrt/include /usr/include /usr/include/*-linux-gnu}; do
        header=$folder/NvInferVersion.h
        if [ -f "$header" ]; then
            echo "$(header_number MAJOR "$header").$(header_number MINOR "$header").$(
                header_number PATCH "$header").$(header_number BUILD "$header")"
            return
        fi
    done
    # shellcheck disable=SC2016  # the braces are dpkg-query's
    dpkg-query --show --showformat '${Version}\n' 'libnvinfer[0-9]*' 2>/dev/null | grep -m 1 . || true
}

found=$(found_version)
version=${found%%[-+]*}
echo "$version" | grep -Eqx '[0-9]+(\.[0-9]+){3}' || fail "expected the TensorRT version of a Triton image, such as" \
    "10.13.3.9, in TRT_VERSION, NvInferVersion.h or the package libnvinfer, found '$found'; run this inside" \
    "nvcr.io/nvidia/tritonserver:YY.MM-py3, or set TRT_VERSION to what \"dpkg -l 'libnvinfer*'\" prints there"

tensorrt=${TENSORRT_PACKAGE:-tensorrt${CUDA_VERSION:+-cu${CUDA_VERSION%%.*}}}==$version
installed=$(python3 -c 'import tensorrt; print(tensorrt.__version__)' 2>/dev/null || true)
if [ "$installed" = "$version" ]; then
    tensorrt=
fi

scratch=$(mktemp -d)
mkdir "$scratch/project"
# A build writes beside its sources, and the project may be mounted read-only. The other packages make no plans.
for part in pyproject.toml README.md LICENSE builder clients; do
    cp -R "$project/$part" "$scratch/project/"
done
# Not into the image's own Python, which belongs to root and to its distribution (PEP 668).
python3 -m pip install --disable-pip-version-check --no-cache-dir --target "$scratch/site" \
    "$scratch/project[plan]" ${tensorrt:+"$tensorrt"} ||
    fail "pip could not install the project${tensorrt:+ with $tensorrt}, see above; without a network give pip a folder" \
        "of wheels (PIP_NO_INDEX=1, PIP_FIND_LINKS=/wheels); where TensorRT $version is not published, run this in" \
        "nvcr.io/nvidia/tensorrt:YY.MM-py3 of the same release, which holds it"

export PYTHONPATH="$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
exec python3 -m builder plan "$@"
