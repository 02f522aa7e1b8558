# What is needed to install stays in this stage.
FROM python:3.13-slim AS build

# pip itself stays outside of what is copied.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt /tmp/
# Wheels only: nothing is compiled, and nothing that a package brings runs while it is installed.
RUN pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: -r /tmp/requirements.txt


FROM python:3.13-slim

LABEL org.opencontainers.image.title="cartsvc" \
      org.opencontainers.image.description="A shopping-cart REST service built for retries, concurrent changes and guest sign-in" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"

COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# gunicorn finds gunicorn.conf.py and wsgi.py in its working directory.
WORKDIR /app
COPY LICENSE wsgi.py gunicorn.conf.py ./
COPY cartsvc cartsvc

# A new volume takes over whose this is, and who may look into it: nobody else.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/cartsvc

# On a read-only file system nothing compiled can be kept, and the base image has the standard library as source:
# every start, and every health check, would compile it anew. Importing it here keeps what they need of it, and shows
# that what was copied can start.
RUN python -m compileall -q . \
    && gunicorn --check-config wsgi:app \
    && python -c "import http.client, encodings.idna, cartsvc.stores.lmdb, cartsvc.stores.valkey"

# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 10001:10001

EXPOSE 8080

# http.client and not urllib.request: that one would ask the proxy that http_proxy names. A connection to 0.0.0.0 or ::
# reaches the loopback address, so HOST serves as it is.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys;\
service = http.client.HTTPConnection(os.environ.get('HOST', '127.0.0.1'), int(os.environ.get('PORT', '8080')), timeout=4);\
service.request('GET', '/healthz');\
sys.exit(service.getresponse().status != 200)"]

# No shell around it: gunicorn is the first process and gets the SIGTERM of a stop itself.
CMD ["gunicorn", "wsgi:app"]
