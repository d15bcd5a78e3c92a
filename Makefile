# The two commands of the README: `make demo` and `make test`. `make help` lists the rest.

STATE   ?= $(CURDIR)/target/demo/state
ROOTFS  ?= $(CURDIR)/target/demo/rootfs
SANDPEN := $(CURDIR)/target/release/sandpen
PEERS   := $(CURDIR)/target/bench-peers
export OUT ?= $(CURDIR)/target/bench

.PHONY: help demo test test-crate chaos test-system-libkrun lint deny mutants bench bench-peers bench-boot bench-clock bench-cp bench-density bench-exec bench-fleet bench-images bench-logs bench-micro bench-nested bench-pull bench-restart bench-status bench-storm packages build kernel rootfs clean

help:           ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf '  make %-20s %s\n' "$$name" "$$what"; done

demo: kernel rootfs ## Installs what is missing, builds, and runs a workload in a microVM
	@SANDPEN="$(SANDPEN)" SANDPEN_STATE_DIR="$(STATE)" scripts/demo $(ROOTFS)

test: packages  ## Installs what is missing and runs all tests, real microVMs included
	@scripts/test

chaos: packages ## Kills, fills and stops by seed, for ROUNDS=n rounds from SEED=s, and checks all that must hold
	CHAOS_ROUNDS=$(ROUNDS) CHAOS_SEED=$(SEED) cargo test --locked --all-features -p sandpen --test chaos -- --nocapture

test-crate:     ## Builds and tests one crate: C=actors is the package sandpen-actors; A=arguments go to the runner
	@scripts/test-crate $(C) $(A)

test-system-libkrun: packages ## Builds against a system libkrun, made from its crate, and tests that
	@scripts/test-system-libkrun

lint:           ## rustfmt and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

deny:           ## Licences, sources, bans and, with a database in SANDPEN_ADVISORY_DB=DIR, vulnerabilities of dependencies
	@scripts/deny

mutants:        ## Changes the deciding modules one place at a time, and has their tests notice
	@scripts/mutants

bench: bench-micro bench-logs bench-density bench-status bench-storm bench-fleet bench-restart bench-boot bench-exec bench-cp bench-images bench-pull bench-nested ## All benchmarks; OUT=DIR gets JSON and charts

bench-logs: packages bench-peers ## The log path against cat, s6-log, svlogd and conmon, in one run
	PEERS=$(PEERS) cargo bench --locked --profile measure --features testing --bench logs

bench-density: packages bench-peers ## Memory and CPU of sandboxes that do nothing, and of their peers
	PEERS=$(PEERS) cargo bench --locked --profile measure --features testing --bench density

bench-status: packages ## Durable status updates against one transaction each, in one run
	cargo bench --locked --profile measure --features testing --bench status

bench-storm: packages ## A thousand restarts at once, and how soon the daemon answers meanwhile and under floods
	cargo bench --locked --profile measure --features testing --bench storm

bench-peers:
	@scripts/bench-peers $(PEERS)

bench-boot: kernel rootfs ## First workload byte through sandpen against bare QEMU, in one run
	@SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench boot

bench-exec: kernel rootfs ## Commands in a running microVM: latency, many at once, bytes both ways
	@SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench exec

bench-cp: kernel rootfs ## Copies in and out of a running microVM, large and many, against tar through exec
	@SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench cp

bench-images: kernel rootfs ## Images into the store against umoci, starts from them, and reading them in the guest
	@SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench images

bench-pull: kernel rootfs ## Images from a registry against skopeo and umoci, and over a slow line against its bytes alone
	@PARTS=pull SANDPEN="$(SANDPEN)" ROOTFS="$(ROOTFS)" cargo bench --locked --bench images

bench-fleet: packages ## 1 to 1,000 idle microVMs of libkrun through the daemon against a bare loop, in one run
	cargo bench --locked --bench fleet

bench-nested: kernel bench-peers ## A Linux microVM of libkrun through sandpen against a bare libkrun program and microsandbox
	@$(SANDPEN) kernel install --krunfw --if-missing
	PEERS=$(PEERS) cargo bench --locked --bench nested

bench-micro: packages ## Small functions that run for every frame, state change and request
	cargo bench --locked --bench micro

bench-restart: packages ## From a microVM's crash to the next one's workload
	cargo bench --locked --bench restart

bench-clock: kernel ## How far guests' clocks are off on a busy host and over a pause, in ten minutes
	@SANDPEN="$(SANDPEN)" scripts/measure-clock

packages:       ## Installs the Debian packages that are missing (as root, or with sudo)
	@scripts/install-packages

build: packages ## Builds target/release/sandpen
	cargo build --release --locked

kernel: build   ## Installs a guest kernel for this user where none is, without root
	@$(SANDPEN) kernel install --if-missing

rootfs: packages ## Makes a small busybox root directory
	@scripts/make-rootfs $(ROOTFS)

clean:          ## Removes everything that was built
	cargo clean
