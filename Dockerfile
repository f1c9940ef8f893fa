# Two images from one file: `serving` (the service and the command line, without torch) and `worker`.
#   docker build --target serving -t adaptsvc-serving .
#   docker build --target worker -t adaptsvc-worker .
# On a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130

FROM python:3.11.13-slim-bookworm AS source
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/adaptsvc
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY streams streams
COPY adaptsvc adaptsvc

FROM source AS serving-packages
RUN /opt/adaptsvc/bin/pip install --no-cache-dir -c constraints.txt '.[kafka,redis,tracing]'

# torch first and alone, from the index that has it for this machine; everything else from PyPI.
FROM source AS worker-packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/adaptsvc/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" 'torch>=2.6' 'torchvision>=0.21' \
    && /opt/adaptsvc/bin/pip install --no-cache-dir -c constraints.txt '.[learn,kafka,redis,tracing]'

# Nothing is written but under ADAPTSVC_HOME and /tmp, so the root may be read-only.
FROM python:3.11.13-slim-bookworm AS runtime
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/adaptsvc --shell /usr/sbin/nologin adaptsvc \
    && install --directory --owner adaptsvc --group adaptsvc --mode 0750 /var/lib/adaptsvc
ENV PATH=/opt/adaptsvc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=true \
    HF_HOME=/var/lib/adaptsvc/hub \
    ADAPTSVC_HOME=/var/lib/adaptsvc
WORKDIR /var/lib/adaptsvc
VOLUME /var/lib/adaptsvc
USER 10001:10001

FROM runtime AS worker
COPY --from=worker-packages /opt/adaptsvc /opt/adaptsvc
CMD ["adaptsvc", "worker"]

FROM runtime AS serving
COPY --from=serving-packages /opt/adaptsvc /opt/adaptsvc
EXPOSE 3000
CMD ["adaptsvc", "serve"]
