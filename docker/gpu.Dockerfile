# The server on a GPU of NVIDIA: ONNX Runtime's CUDA build, on CUDA's and cuDNN's libraries. Otherwise as docker/Dockerfile.
#
#   docker build -f docker/gpu.Dockerfile -t latentserve-gpu .
#   docker run --rm --gpus all -p 127.0.0.1:8000:8000 latentserve-gpu
#
# CUDA 13 needs a driver of 580 or newer. Base and release belong together: onnxruntime-gpu 1.31 was built for CUDA 13.
ARG BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
FROM ${BASE} AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*


FROM base AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils ca-certificates python3-pip python3-venv \
    && python3 -m venv --without-pip /srv/vae
WORKDIR /build
COPY pyproject.toml constraints.txt ./
COPY docker/requirements.py docker/
ARG EXTRAS=
ARG ONNXRUNTIME_GPU=1.31.1
# The two builds cannot live in one environment: one takes the place of the other.
RUN python3 docker/requirements.py $EXTRAS | sed "s/^onnxruntime>=.*/onnxruntime-gpu==$ONNXRUNTIME_GPU/" > requirements.txt \
    && pip --python /srv/vae/bin/python install --no-compile -c constraints.txt -r requirements.txt \
    && find /srv/vae/bin -type f -delete
COPY docker/slim.py docker/
RUN python3 docker/slim.py /srv/vae/lib/python3*/site-packages


FROM dependencies AS code
RUN pip --python /srv/vae/bin/python install --no-compile -c constraints.txt hatchling
COPY README.md LICENSE vae.py ./
COPY commands commands
COPY app app
COPY model/__init__.py model/
COPY model/bundle model/bundle
COPY model/pretrained model/pretrained
RUN pip --python /srv/vae/bin/python install --no-compile --no-deps --no-build-isolation --prefix /srv/code .


FROM base
RUN groupadd --gid 10001 vae \
    && useradd --uid 10001 --gid vae --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vae
COPY --from=dependencies /srv/vae /srv/vae
COPY --from=code /srv/code /srv/vae
COPY docker/healthcheck.py /srv/healthcheck.py

# A server that was to use a GPU and finds none does not start. Kernels that the driver compiles are kept in /tmp, for
# the root may be read-only.
ENV PATH=/srv/vae/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CUDA_CACHE_PATH=/tmp/cuda \
    VAE_PROVIDER=cuda \
    VAE_REQUIRE_PROVIDER=true \
    VAE_HOST=0.0.0.0 \
    VAE_ACCESS_LOG=true
WORKDIR /srv
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-I", "-S", "/srv/healthcheck.py"]
ENTRYPOINT ["vae"]
CMD ["serve"]

ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="latentserve-gpu" \
    org.opencontainers.image.description="A variational autoencoder behind HTTP, on CUDA" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED"
