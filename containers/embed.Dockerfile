# Weights, embedding, verification: Python with torch (and the CUDA libraries it brings) and fair-esm.
# The interpreter and its libraries only: Nextflow mounts bin/, so a change of our code needs no new image.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Nextflow measures tasks with ps; slim images lack it.
RUN command -v ps > /dev/null || { apt-get update; apt-get install --yes --no-install-recommends procps; rm -rf /var/lib/apt/lists/*; }

# Another torch build: another locked file beside embed.txt, and the package index that has it (README.md).
ARG REQUIREMENTS=embed.txt
ARG EXTRA_INDEX=
# An own environment, because a distribution's Python may refuse pip. The secret `ca` is the certificate bundle of a
# network that re-signs TLS; it exists during this command only.
RUN --mount=type=secret,id=ca --mount=type=bind,source=requirements,target=/tmp/requirements \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /opt/protembed; \
    /opt/protembed/bin/python -m pip install --no-cache-dir --disable-pip-version-check ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} \
        --require-hashes --requirement "/tmp/requirements/$REQUIREMENTS"; \
    /opt/protembed/bin/python -m pip uninstall --quiet --yes pip

# Any uid may run this, one without an entry in /etc/passwd too: its home is a place where everyone may write, and
# torch finds a user's name (getpass fails without an entry).
ENV PATH=/opt/protembed/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    HOME=/tmp \
    USER=protembed \
    LOGNAME=protembed \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    TORCH_HOME=/tmp/.cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/tmp/.cache/inductor \
    TRITON_CACHE_DIR=/tmp/.cache/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=0.1.0
ARG SOURCE=protembed
LABEL org.opencontainers.image.title="protembed-embed" \
      org.opencontainers.image.description="Python environment of protembed's steps that need torch and fair-esm" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT"
CMD ["/bin/bash"]
