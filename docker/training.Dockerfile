# Training, measuring and exporting; it also does all that the server's image does.
#
#   docker build -f docker/training.Dockerfile -t latentserve-training .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/data:/data" -v "$PWD/runs:/runs" -v "$PWD/bundles:/bundles" \
#       latentserve-training train mnist --resume --publish bundles
#
# What PyPI has for Linux on x86_64 is PyTorch's CUDA build, which also runs on CPUs and brings its own CUDA: with it,
# `docker run --gpus all` trains on a GPU (NVIDIA's container toolkit gives the driver). PyTorch publishes its smaller
# CPU build elsewhere: --build-arg TORCH_INDEX=..., the address that pytorch.org/get-started names for CPU; likewise for
# another version of CUDA.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS dependencies
ENV PATH=/srv/vae/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOME=/tmp
RUN python3 -m venv --without-pip /srv/vae
WORKDIR /build
COPY pyproject.toml constraints.txt docker/requirements.py ./
ARG TORCH_INDEX=
RUN python3 requirements.py training tensorboard > requirements.txt \
    && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip --python /srv/vae/bin/python --no-cache-dir --disable-pip-version-check \
        install --no-compile -c constraints.txt -r requirements.txt


# As in docker/Dockerfile, with all of the code.
FROM dependencies AS code
RUN pip --python /srv/vae/bin/python --no-cache-dir --disable-pip-version-check install -c constraints.txt hatchling
COPY README.md LICENSE vae.py ./
COPY commands commands
COPY app app
COPY model model
COPY training training
RUN pip --python /srv/vae/bin/python --no-cache-dir --disable-pip-version-check \
        install --no-compile --no-deps --no-build-isolation --prefix /srv/code .


FROM dependencies
COPY --from=code /srv/code /srv/vae
RUN mkdir /data /runs /bundles && chown 10001:10001 /data /runs /bundles

# Relative paths are those of a clone: data/, runs/mnist, bundles.
WORKDIR /
USER 10001:10001
VOLUME ["/data", "/runs", "/bundles"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vae"]
CMD ["train", "--help"]
LABEL org.opencontainers.image.title="latentserve-training" \
    org.opencontainers.image.licenses="Apache-2.0"
