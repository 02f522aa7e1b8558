# Build stage: pip, the compiler and the files that they need stay here.
FROM python:3.13-slim AS build

# Compile gunicorn's C parser, which has no wheels. Without build isolation, which would download an unpinned setuptools.
# hadolint ignore=DL3008 # Debian keeps only the newest version of a package, so a pinned one would soon be missing
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-build.txt requirements-c-parser.txt /tmp/
RUN pip install --no-cache-dir --only-binary :all: -r /tmp/requirements-build.txt \
    && pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /tmp/wheels -r /tmp/requirements-c-parser.txt

# Without pip, because the environment is copied into the image.
RUN python -m venv --without-pip /opt/venv
# With requirements-otel.txt the image has the packages for tracing too.
ARG REQUIREMENTS=requirements.txt
COPY ${REQUIREMENTS} /tmp/requirements.txt
# Wheels only, so nothing else is compiled and no code of a package runs during installation.
RUN pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -r /tmp/requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-index --no-deps /tmp/wheels/*.whl


FROM python:3.13-slim

LABEL org.opencontainers.image.title="cartsvc" \
      org.opencontainers.image.description="A shopping-cart REST service built for retries, concurrent changes and guest sign-in" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# gunicorn reads gunicorn.conf.py and wsgi.py from its working directory.
WORKDIR /app
COPY LICENSE wsgi.py gunicorn.conf.py ./
COPY cartsvc cartsvc

# A new volume inherits this owner and mode: readable by the user of the service only.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/cartsvc

# Compile now. The file system of the container is read-only and the base image has the standard library as source, so
# every start and every health check would compile again. This also checks that the copied code can start.
RUN python -m compileall -q . \
    && gunicorn --check-config wsgi:app \
    && python -c "import http.client, encodings.idna, gunicorn_h1c, cartsvc.stores.lmdb, cartsvc.stores.postgresql, cartsvc.stores.valkey"

# Numeric, because Kubernetes' runAsNonRoot cannot resolve names.
USER 10001:10001

EXPOSE 8080

# http.client, because urllib.request would use the proxy in http_proxy. A connection to 0.0.0.0 or :: reaches the
# loopback address, so HOST works as it is.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys;\
service = http.client.HTTPConnection(os.environ.get('HOST', '127.0.0.1'), int(os.environ.get('PORT', '8080')), timeout=4);\
service.request('GET', '/healthz');\
sys.exit(service.getresponse().status != 200)"]

# No shell, so that gunicorn is the first process and receives SIGTERM.
CMD ["gunicorn", "wsgi:app"]
