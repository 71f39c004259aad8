# What every release's image stands on: Python, the packages of requirements/serving.lock, and nothing else.
# `make serving-base` fills the context: `site/` holds the packages, installed outside of the build, so that no package
# index, certificate or credential of the machine that builds can end up in a layer.
ARG OS_BASE
FROM ${OS_BASE}

# The user of BentoML's own images. No program may change its user: nothing here needs it.
RUN echo 'bentoml:x:1034:1034::/home/bentoml:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'bentoml:x:1034:' >> /etc/group \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'

COPY site /opt/serving

ENV PYTHONPATH=/opt/serving \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    BENTOML_CONTAINERIZED=true \
    PROMETHEUS_MULTIPROC_DIR=/tmp/prometheus \
    OMP_NUM_THREADS=1

# What a GPU's driver brings in where the engine hands one over; without it some toolkits leave CUDA out. Which GPU is the
# engine's or the cluster's to say: NVIDIA_VISIBLE_DEVICES in an image would take all of them, asked for or not.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /home/bentoml
USER 1034:1034
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-I", "-S", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# A release brings its own entry point; this one is for bentos from before they did.
ENTRYPOINT ["python3", "-m", "bentoml"]
CMD ["serve", "/home/bentoml/bento", "--host", "0.0.0.0", "--port", "3000"]
