# Split, merge, numbers of the report: Python with numpy, h5py, biopython and xxhash, no torch.
# The interpreter and its libraries only: Nextflow mounts bin/, so a change of our code needs no new image.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Nextflow measures tasks with ps; slim images lack it.
RUN command -v ps > /dev/null || { apt-get update; apt-get install --yes --no-install-recommends procps; rm -rf /var/lib/apt/lists/*; }

# An own environment, because a distribution's Python may refuse pip. The secret `ca` is the certificate bundle of a
# network that re-signs TLS; it exists during this command only.
RUN --mount=type=secret,id=ca --mount=type=bind,source=requirements,target=/tmp/requirements \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /opt/protembed; \
    /opt/protembed/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /tmp/requirements/tools.txt; \
    /opt/protembed/bin/python -m pip uninstall --quiet --yes setuptools pip

# Any uid may run this, one without an entry in /etc/passwd too: its home is a place where everyone may write.
ENV PATH=/opt/protembed/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    HOME=/tmp \
    USER=protembed \
    LOGNAME=protembed \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib

ARG VERSION=0.1.0
ARG SOURCE=protembed
LABEL org.opencontainers.image.title="protembed-tools" \
      org.opencontainers.image.description="Python environment of protembed's steps that need no torch" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT"
CMD ["/bin/bash"]
