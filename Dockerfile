# Coinage with its page, for a CPU or an NVIDIA GPU. How to use it: docs/guides/containers.md
#
#   docker build --tag coinage:cpu .
#   docker build --tag coinage:cu126 --build-arg TORCH=cu126 .

ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
# Not pinned: Debian keeps the versions of a release, and takes away those with known faults
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/coinage
ENV PATH=/opt/coinage/bin:$PATH

# The wheel, as `make dist` builds it, and apart from it what it needs, which changes less often.
FROM python AS wheel
ARG EXTRAS=ui,optimizers
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt build
COPY pyproject.toml README.md LICENSE ./
RUN mkdir /dist && sed '/^torch==/d' constraints.txt > /dist/constraints.txt \
    && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
more = p['optional-dependencies']; extras = '${EXTRAS}'.split(','); \
print(*p['dependencies'], *(line for extra in extras if extra for line in more[extra]), sep='\n')" \
    > /dist/requirements.txt
COPY src src
RUN python -m build --wheel --outdir /dist

FROM python
# cpu, cu126 (drivers for CUDA 12) or cu130 (drivers from 580 on; also for RTX 50)
ARG TORCH=cpu
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}
# The largest layers first, which seldom change
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}"
COPY --from=wheel /dist/constraints.txt /dist/requirements.txt /opt/coinage/
# hadolint ignore=DL3059
RUN pip install --no-cache-dir --constraint /opt/coinage/constraints.txt \
    --requirement /opt/coinage/requirements.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir --no-deps /dist/*.whl

# Whoever the container runs as, it may write here and needs nothing else.
RUN mkdir --mode=1777 /workspace
VOLUME /workspace
WORKDIR /workspace
# Some libraries ask for the user's name, which a number of --user has none of.
ENV HOME=/workspace \
    LOGNAME=nobody \
    PYTHONUNBUFFERED=1 \
    COINAGE_HOSTS=localhost \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="Coinage" \
    org.opencontainers.image.description="Teach Stable Diffusion a new word" \
    org.opencontainers.image.licenses="MIT"

ARG USER_ID=1000
USER ${USER_ID}:0
EXPOSE 8484
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", \
    "from http.client import HTTPConnection; page = HTTPConnection('127.0.0.1', 8484, timeout=8); \
page.request('GET', '/login'); raise SystemExit(page.getresponse().status != 200)"]
# tini hands signals on, and waits for what a run leaves behind.
ENTRYPOINT ["tini", "--", "coinage"]
CMD ["ui", "--listen", "0.0.0.0", "--port", "8484", "--no-browser", "--end-runs"]
