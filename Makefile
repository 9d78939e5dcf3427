# make chat, make test: everything else is called by these. CI runs check, test and oracle.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APT_TOOLS := verilator g++ make riscv64-unknown-elf-gcc
APT_PACKAGES := verilator g++ make gcc-riscv64-unknown-elf python3-venv
# what only tests run
TEST_TOOLS := openocd tclsh qemu-system-arm arm-none-eabi-gcc mkimage mcopy mkfs.vfat sfdisk haproxy chromium chromedriver
TEST_PACKAGES := openocd tcl qemu-system-arm gcc-arm-none-eabi u-boot-tools mtools dosfstools fdisk haproxy chromium chromium-driver
export PROMPT
CHAT := $(if $(PROMPT),--prompt "$$PROMPT") $(if $(MAX_TOKENS),--max-tokens $(MAX_TOKENS)) $(if $(TARGET),--target $(TARGET))

C_SOURCES := $(wildcard boot/*.[ch] firmware/*.c firmware/include/*.h soc/bitnet_soc/sim/*.cpp soc/bitnet_soc/sim/*.hpp \
	soc/bitnet_soc/sim/ps/*.cpp soc/bitnet_soc/sim/ps/*.hpp firmware/ps/*.c firmware/ps/*.h \
	tests/*.cpp tests/soc/cfu/*.c tests/soc/cfu/*.cpp tests/soc/qemu/*.c)

.PHONY: chat test check oracle conformance container bench fuzz build setup generate clean

# only the simulated board has to be built
chat: $(if $(filter-out sim,$(TARGET)),$(VENV)/.installed,build)
	@$(BIN)/bitnet-host chat $(CHAT)

# make DSP_CLOCK=1x: the same with the DSP slices at the system clock, built beside the other
ifeq ($(DSP_CLOCK),1x)
export BITNET_BUILD := $(CURDIR)/build/1x
BUILD_OPTIONS := --dsp-clock 1x --output build/1x
endif

# files in the order of their names: xdist would put those of few tests last, and they take longest
test: $(VENV)/.test-tools
	@$(BIN)/python soc/build.py $(BUILD_OPTIONS) --with-ps
	@$(BIN)/python soc/build.py --vector-unit --dsp-clock 1x --output build/1x
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 150 --ignore tests/train

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(BIN)/python -m xtvu.emit --check docs/isa.md

# what needs PyTorch: the comparison with transformers, and training
oracle: $(VENV)/.oracle build
	TORCHDYNAMO_DISABLE=1 $(BIN)/python tests/oracle.py
	$(BIN)/python -m pytest -q -n 2 --durations 20 tests/train

# llama.cpp's tests of its server, all of them; CI runs those that are known to pass
conformance: $(VENV)/.test-tools
	$(BIN)/python tests/conformance/suite.py

# builds the container and chats in it; takes a while, and podman
container: $(VENV)/.test-tools
	$(BIN)/python tests/container.py

bench: build
	$(BIN)/python -m bitnet_host.bench.performance docs/performance.md
	$(BIN)/bitnet-host bench --shape 2b4t --context 128 --tokens 2 --check
	BITNET_SLACK=all $(BIN)/python -m pytest -q tests/soc/test_slack.py
	$(BIN)/python tests/screening.py --positions 10000
	$(BIN)/python tests/upload_speed.py
	$(BIN)/python tests/lookup_speed.py
	$(BIN)/python tests/instruction_cycles.py
	$(BIN)/python tests/full_size.py

# Long random runs; BITNET_SEED repeats one.
fuzz: build
	BITNET_LINES=all $(BIN)/python -m pytest -q tests/soc/test_selftest.py
	BITNET_PROGRAMS=20000 $(BIN)/python -m pytest -q --timeout 20000 tests/gateware/test_random.py
	BITNET_HEADERS=50000 $(BIN)/python -m pytest -q --timeout 20000 tests/soc/test_lying_images.py
	BITNET_DATAGRAMS=200000 BITNET_MEGABYTES=960 $(BIN)/python -m pytest -q -s --timeout 20000 tests/soc/test_network.py

build: $(VENV)/.installed
	@$(BIN)/python soc/build.py $(BUILD_OPTIONS)

generate: $(VENV)/.installed
	$(BIN)/python -m xtvu.emit --docs docs/isa.md

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@for tool in $(APT_TOOLS); do command -v $$tool > /dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then echo "installing system packages ..."; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT_PACKAGES) > /dev/null; fi
	@echo "installing Python packages ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[gateware,dev]'
	@$(BIN)/python -m bitnet_host.serve.libraries
	@touch $@

$(VENV)/.test-tools: $(VENV)/.installed
	@for tool in $(TEST_TOOLS); do command -v $$tool > /dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then echo "installing what tests run ..."; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TEST_PACKAGES) > /dev/null; fi
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[clients,plots,ray]'
	@touch $@

$(VENV)/.oracle: $(VENV)/.installed
	@echo "installing PyTorch and transformers ..."
	@$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[oracle]'
	@touch $@

clean:
	rm -rf build
