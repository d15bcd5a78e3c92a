# The two commands of the README: `make demo` and `make test`. `make help` lists the rest.

STATE   ?= $(CURDIR)/target/demo/state
ROOTFS  ?= $(CURDIR)/target/demo/rootfs
SANDPEN := $(CURDIR)/target/release/sandpen
RUN     := SANDPEN_STATE_DIR=$(STATE) $(SANDPEN)

.PHONY: help demo test unit lint deny bench-boot packages build kernel rootfs clean

help:           ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

packages:       ## Installs the Debian packages that are missing (as root, or with sudo)
	@scripts/install-packages

build: packages ## Builds target/release/sandpen
	cargo build --release --locked

kernel: build   ## Installs the guest kernel for this user, without root
	@$(SANDPEN) kernel install

rootfs:         ## Makes a small busybox root directory
	@scripts/make-rootfs $(ROOTFS)

demo: kernel rootfs ## Builds everything and runs a workload in a microVM
	@SANDPEN="$(SANDPEN)" SANDPEN_STATE_DIR="$(STATE)" scripts/demo $(ROOTFS)

test: packages  ## Runs all tests, real microVMs included
	@scripts/test

lint:           ## rustfmt and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

deny:           ## Licences, sources and duplicates of dependencies
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny --all-features check bans licenses sources

bench-boot: kernel rootfs ## First workload byte through sandpen against bare QEMU, in one run
	@SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench boot

clean:          ## Removes everything that was built
	cargo clean
