# The images of Strongroom, as docker-compose.yml uses them. Each target is built by name:
#
#   manager   strongroom, etcd              agent   strongroom-agent, no code of the managers
#   app       the lab's applications        bootstrap   what founds the lab's cluster, on manager
#
# BASE_IMAGE: Debian or a relative with python3 (3.11 or later) and its venv. `make test-containers` makes one.
# What an offline copy carries (.wheels, .tools/etcd-bookworm) is used; without it PyPI and Debian are asked.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS packages
WORKDIR /build
COPY requirements.lock requirements-dev.lock docs/lab/compose/install_pinned.sh ./
COPY requirements.lock .wheel[s] /wheels/
RUN python3 -m venv /build/venv && ./install_pinned.sh shared && ./install_pinned.sh server
COPY pyproject.toml README.md LICENSE ./
COPY cluster cluster
COPY agent agent
RUN ./install_pinned.sh own

FROM ${BASE_IMAGE} AS engine
COPY requirements.lock .tools/etcd-bookwor[m]/usr/bin/etc[d] /engine/
RUN set -eu; cd /engine; \
    if [ ! -x etcd ]; then \
        apt-get update -qq; apt-get download -qq etcd-server; \
        dpkg -x etcd-server_*.deb unpacked; mv unpacked/usr/bin/etcd etcd; \
    fi; \
    ./etcd --version

# What managers and agents have in common: one layer of both images.
FROM ${BASE_IMAGE} AS shared
COPY --from=packages /out/shared /opt/strongroom/lib/
ENV PATH=/opt/strongroom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/strongroom/lib \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8

FROM shared AS agent
COPY --from=packages /out/agent /opt/strongroom/
COPY docs/lab/compose/join_and_run.sh /opt/strongroom/bin/join-and-run
RUN install -d -m 0700 -o 64000 -g 64000 /var/lib/strongroom-agent && python3 -c 'import agent.main, agent.joining'
USER 64000:64000
CMD ["strongroom-agent", "run"]

FROM shared AS manager
COPY --from=engine /engine/etcd /usr/local/bin/etcd
COPY --from=packages /out/server /opt/strongroom/lib/
COPY --from=packages /out/manager /opt/strongroom/
RUN install -d -m 0700 -o 64010 -g 64010 /var/lib/strongroom /var/lib/strongroom-operator \
    && python3 -c 'import cluster.manager'
ENV XDG_CONFIG_HOME=/var/lib/strongroom-operator
USER 64010:64010
CMD ["strongroom", "manager", "run"]

FROM manager AS bootstrap
COPY docs/lab/compose/bootstrap.py /opt/strongroom/lab/
CMD ["python3", "/opt/strongroom/lab/bootstrap.py"]

FROM ${BASE_IMAGE} AS app
COPY --from=packages /out/app /app/
COPY docs/lab/apps/*.py docs/lab/probes/attacker.py docs/lab/compose/when_ready.sh /app/
ENV PATH=/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1 LANG=C.UTF-8
USER 65534:65534
