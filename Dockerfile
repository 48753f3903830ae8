# FuseMatte as a container that serves the HTTP API, or does whatever command it is given.
#
#   docker build -t fusematte .                              # for any processor
#   docker build -t fusematte:nvidia --target nvidia .       # for NVIDIA GPUs
#   docker run -e FUSEMATTE_API_KEY=... -p 127.0.0.1:8765:8765 fusematte
#   docker run -v "$PWD:/data" fusematte run talk.mp4 out.mp4 --background blur
#
# compose.yaml has a server and a folder that is watched.

FROM debian:bookworm-slim AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home fusematte \
 && install -d -o fusematte -g fusematte /data /home/fusematte/.cache

FROM python AS compile
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev g++ \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/fusematte
COPY . /src
RUN /opt/fusematte/bin/pip install --no-cache-dir "/src[serve,sequences,heic]"

# NVIDIA's compiler comes as a package.  PyCUDA is linked with a stand-in for the driver, which
# belongs to the machine that the container runs on.
FROM compile AS compile-nvidia
RUN /opt/fusematte/bin/pip install --no-cache-dir \
      "nvidia-cuda-nvcc>=13,<14" "nvidia-cuda-runtime>=13,<14" nvidia-cuda-profiler-api \
 && mkdir /stand-in \
 && echo | g++ -shared -x c++ - -Wl,-soname,libcuda.so.1 -o /stand-in/libcuda.so \
 && echo "CUDA_ENABLE_CURAND = False" > ~/.aksetup-defaults.py
RUN tools=$(/opt/fusematte/bin/python -c "import nvidia; print(*nvidia.__path__)")/cu13/bin \
 && PATH=$tools:$PATH LIBRARY_PATH=/stand-in FUSEMATTE_CUDA=1 \
    /opt/fusematte/bin/pip install --no-cache-dir --force-reinstall --no-deps "/src" \
 && PATH=$tools:$PATH LIBRARY_PATH=/stand-in \
    /opt/fusematte/bin/pip install --no-cache-dir "/src[serve,sequences,heic,tensorrt]" \
 && /opt/fusematte/bin/pip uninstall --yes nvidia-cuda-nvcc nvidia-cuda-profiler-api

FROM python AS serve
ENV PATH=/opt/fusematte/bin:$PATH
USER fusematte
WORKDIR /data
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8765/api/health', timeout=4)"]
ENTRYPOINT ["fusematte"]
CMD ["serve", "--api", "--host", "0.0.0.0"]

FROM serve AS nvidia
# What the NVIDIA Container Toolkit brings into the container: also the decoder and the encoder.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=compile-nvidia /opt/fusematte /opt/fusematte

FROM serve AS cpu
COPY --from=compile /opt/fusematte /opt/fusematte
