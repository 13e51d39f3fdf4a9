# What a person types. `make help` lists it; every target installs the Debian
# packages it needs (packages/list) and nothing that is there already.

PREFIX  ?= /usr/local
DESTDIR ?=

CARGO   ?= cargo
TARGET  := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)

# What `make build` leaves for `make install`, which needs no compiler then.
DIST    := $(TARGET)/dist
# The one command that is built, tested, shown and installed.
BIN     := $(DIST)/bin/singularity

# Asked when used: a fresh machine has no rustc until `make build` installs it.
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')

bindir  := $(DESTDIR)$(PREFIX)/bin
man1dir := $(DESTDIR)$(PREFIX)/share/man/man1
docdir  := $(DESTDIR)$(PREFIX)/share/doc/singularity
bashdir := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
zshdir  := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
fishdir := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

.DELETE_ON_ERROR:
.PHONY: help demo test build install uninstall bench cluster fmt lint doc fuzz clean

help: ## Say what can be made (the default)
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo 'Variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'

demo: build ## Run an MPI program inside a real image, beside the same on the host
	@packages/install run demo
	@SINGULARITY_BIN='$(BIN)' examples/demo

test: ## Run every check of this project
	@SINGULARITY_BIN='$(BIN)' tests/check

# Static and at a fixed address: nothing to look up, load or relocate at start.
build: ## Build the command, its manual pages and its completions
	@packages/install build
	$(CARGO) rustc --release --locked --bin singularity --target $(HOST_TRIPLE) -- \
		-C target-feature=+crt-static -C relocation-model=static
	@mkdir -p '$(DIST)/bin'
	@cp '$(TARGET)/$(HOST_TRIPLE)/release/singularity' '$(BIN).new'
	@mv '$(BIN).new' '$(BIN)'
	@rm -rf '$(DIST)/man' '$(DIST)/completions'
	@mkdir -p '$(DIST)/man' '$(DIST)/completions'
	@'$(BIN)' generate man '$(DIST)/man'
	@'$(BIN)' generate completions '$(DIST)/completions'

# As root, who may have no cargo on PATH, install what is built and build nothing.
install: $(if $(wildcard $(BIN)),,build) ## Install under DESTDIR and PREFIX
	install -d '$(bindir)' '$(man1dir)' '$(docdir)' '$(bashdir)' '$(zshdir)' '$(fishdir)'
	install -m 755 '$(BIN)' '$(bindir)/singularity'
	ln -sf singularity '$(bindir)/run-singularity'
	install -m 644 '$(DIST)'/man/*.1 '$(man1dir)/'
	install -m 644 '$(DIST)/completions/singularity.bash' '$(bashdir)/singularity'
	install -m 644 '$(DIST)/completions/_singularity' '$(zshdir)/_singularity'
	install -m 644 '$(DIST)/completions/singularity.fish' '$(fishdir)/singularity.fish'
	install -m 644 README.md CHANGELOG.md LICENSE $(wildcard docs/*.md) '$(docdir)/'

uninstall: ## Remove what install put there
	rm -f '$(bindir)/singularity' '$(bindir)/run-singularity'
	rm -f '$(man1dir)/singularity.1' '$(man1dir)'/singularity-*.1
	rm -f '$(bashdir)/singularity' '$(zshdir)/_singularity' '$(fishdir)/singularity.fish'
	rm -rf '$(docdir)'

bench: build ## Measure against the host and other launchers (bench/README.md)
	@packages/install run demo test bench
	SINGULARITY_BIN='$(BIN)' $(CARGO) run --release --locked --package bench

cluster: build ## Bring up a Slurm cluster of two nodes on this machine, until Ctrl-C
	@packages/install run demo test slurm
	SINGULARITY_BIN='$(BIN)' $(CARGO) run --locked --package test-support --bin cluster

fmt: ## Format the source
	$(CARGO) fmt --all

lint: ## Check format and style of source and scripts
	@tests/check lint

doc: ## Build the documentation of the crates; broken links are errors
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --document-private-items

fuzz: ## Fuzz the parsers of image formats for ten minutes
	@packages/install build test
	fuzz/run 600

clean: ## Remove all that was built, the images too
	rm -rf '$(TARGET)'
