# Every target installs what it needs first (scripts/setup.sh: quick when nothing is missing).
.DEFAULT_GOAL := help
.PHONY: help setup build model demo serve test test-asan test-tsan soak fuzz check format bundle gpu-bundle deploy-tools

BAZEL ?= bazel
PROGRAMS = //server:spotlight-server //client:spotlight //client/bench:spotlight-bench //training:spotlight-train //training/evaluation:spotlight-eval //engine/model:make_untrained_hash

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:          ## install Debian packages, cargo, LibTorch and the CUDA toolkit
	@scripts/setup.sh

build: setup    ## build the programs and link them in bin/
	@$(BAZEL) build $(PROGRAMS)
	@mkdir -p bin
	@for target in $(PROGRAMS); do \
	  path=$$(echo $$target | sed 's|^//||; s|:|/|'); ln -sfn "../bazel-bin/$$path" "bin/$${path##*/}"; done

model: setup    ## fetch the default model, SmolLM2-135M-Instruct
	@tools/fetch_default_model.sh

demo: build     ## start the server, stream an answer through the client, stop
	@scripts/demo.sh

serve: build    ## serve the default model until Ctrl-C (SERVE_FLAGS="--listen ...")
	@exec bin/spotlight-server --model "$$(tools/fetch_default_model.sh)" $(SERVE_FLAGS)

test: build     ## build everything and run the CPU tests
	@scripts/test.sh

test-asan: setup ## CPU tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/test.sh --config=asan

test-tsan: setup ## engine and server tests under ThreadSanitizer
	@scripts/test.sh --config=tsan

soak: setup     ## 10 minutes of streams that misbehave, then overload (SOAK_SECONDS=600)
	@$(BAZEL) test //tests/soak:soak_test --test_arg=--seconds=$(or $(SOAK_SECONDS),600) --test_timeout=3600 \
	  --nocache_test_results --test_output=streamed
	@$(BAZEL) test //tests/soak:overload_test --test_arg=--seconds=30 --test_timeout=600 --nocache_test_results \
	  --test_output=streamed

fuzz:           ## look for inputs that crash a loader, 10 minutes each (FUZZ_SECONDS=600 FUZZ_TARGETS="config request")
	@scripts/setup.sh clang-14 libclang-rt-14-dev
	@tests/fuzz/fuzz.sh $(or $(FUZZ_SECONDS),600) $(FUZZ_TARGETS)

check: setup    ## formatting and lint
	@scripts/check.sh

format: setup   ## reformat the sources
	@scripts/check.sh --fix

deploy-tools: setup ## install helm, kubeconform, Prometheus and etcd for the tests of deploy/
	@deploy/tools/install.sh

bundle: build   ## pack bundle/: the programs and the Debian libraries they need
	@deploy/bundle.sh

gpu-bundle: setup ## pack gpu_bundle/: all GPU tests and benchmarks, for a machine that has one (GPU_BUNDLE="NAME ...")
	@tests/gpu/bundle.sh $(GPU_BUNDLE)
