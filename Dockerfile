# The service: t2i serve. No torch; models are ONNX folders, from the hub or the volume.
# docker build -t t2i-pipelines .
# the index of all platforms
ARG PYTHON=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON} AS build
WORKDIR /src
# the extras serve and openvino, by hash, as `make lock` writes them: a layer that the project's own code does not change
COPY deploy/requirements.txt requirements.txt
RUN python -m venv --without-pip /opt/t2i \
    && python -m pip --python /opt/t2i/bin/python install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements.txt
COPY . .
# setuptools is one of those
RUN python -m pip --python /opt/t2i/bin/python install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON}
COPY --from=build /opt/t2i /opt/t2i
# whichever user it runs as may write to volumes that begin as copies of these
RUN mkdir -m 1777 /data /models && mkdir /pictures
ENV PATH=/opt/t2i/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/models \
    T2I_HOST=0.0.0.0 \
    T2I_PORT=8000 \
    T2I_URI=/data/milvus.db \
    T2I_ROOT=/pictures
VOLUME ["/data", "/models"]
WORKDIR /data
EXPOSE 8000
USER 10001:10001
# the first start may have to download a model
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import os, sys; from http.client import HTTPConnection; http = HTTPConnection('127.0.0.1', int(os.environ['T2I_PORT']), timeout=4); http.request('GET', '/healthz'); sys.exit(http.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["t2i"]
CMD ["serve"]
