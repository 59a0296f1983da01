# Fairlead: `make` lists what can be made.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR    ?=
# What systemd reads besides /etc. NetworkManager knows no /usr/local.
LIBDIR     := $(PREFIX)/lib
NMDIR      := $(if $(filter /usr,$(PREFIX)),$(LIBDIR)/NetworkManager/conf.d,$(SYSCONFDIR)/NetworkManager/conf.d)

GOLANGCI_LINT := v2.15.0
GOVULNCHECK   := v1.8.0
# Inputs per fuzz target. A count, not a time: the same work on a slow machine.
FUZZ_INPUTS   ?= 5000
TEST_TIMEOUT  ?= 20m

# Where `.ci/deps` puts Go on a machine that has none; the underscore hides it from ./...
export PATH := $(CURDIR)/bin/_go/bin:$(PATH)
# The binary says which commit it is of; where git can not tell, go build would fail.
BUILDVCS := $(if $(shell git rev-parse HEAD 2>/dev/null),auto,false)
SOURCES  := $(shell find . -name .git -prune -o -name bin -prune -o -name '*.go' ! -name '*_test.go' -print) \
            $(wildcard go.mod go.sum config.example.toml config/*.toml fastpath/*.o)

.DEFAULT_GOAL := help
.PHONY: help build deps peers test compile calm race plain engine vm test-vm fuzz cover lint vulncheck demo generate install uninstall clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: bin/fairlead ## the binary, bin/fairlead: static, so it runs on any distribution

bin/fairlead: $(SOURCES)
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(BUILDVCS) -ldflags '-s -w' -o $@ .

deps: ## what building and testing need, by apt and the Go module proxy (as root)
	@.ci/deps

test: deps build ## every test, on the real kernel (as root): under 25 minutes on two cores
	@mkdir -p bin; rc=0; $(MAKE) --no-print-directory compile || rc=1; \
	nice -n 19 $(MAKE) --no-print-directory calm fuzz >bin/calm.log 2>&1 & calm=$$!; \
	$(MAKE) --no-print-directory race || rc=1; \
	$(MAKE) --no-print-directory plain || rc=1; \
	$(MAKE) --no-print-directory engine || rc=1; \
	wait $$calm || rc=1; cat bin/calm.log; \
	$(MAKE) --no-print-directory vm || rc=1; exit $$rc

# Without the race detector: tests that start whole processes, which it does not reach, and rooms where nothing runs at
# once but long loops do. Everything else is run with it, new rooms included.
PLAIN := . ./bench/... ./nettest ./nettest/demo ./nettest/story ./systemd
VM    := ./nettest/vm
# Rooms two by two, and three of the stories that may run beside others: they wait for most of their time.
AT_ONCE := 2
# These never look at the clock: they take the time that the others leave.
CALM       := ./ipam ./reconcile ./store
CALM_PLAIN := ./cli ./config

compile: # on all cores, so that nothing is compiled while tests listen to the clock
	CGO_ENABLED=1 go build -race ./... && CGO_ENABLED=0 go build ./...

race: compile ## the rooms' tests, with the race detector
	@rooms=$$(go list ./... | grep -vxF "$$(go list $(PLAIN) $(VM) $(CALM) $(CALM_PLAIN) 2>/dev/null)") && \
	CGO_ENABLED=1 go test -p $(AT_ONCE) -race -count=1 -timeout $(TEST_TIMEOUT) $$rooms

calm: compile ## the tests to which time does not matter
	CGO_ENABLED=1 go test -p 1 -race -count=1 -timeout $(TEST_TIMEOUT) $(CALM)
	CGO_ENABLED=0 go test -p 1 -count=1 -timeout $(TEST_TIMEOUT) $(CALM_PLAIN)

plain: build compile ## the other tests: stories of whole hosts, and the service
	CGO_ENABLED=0 BUILT=$(CURDIR)/bin/fairlead go test -p 1 -parallel 3 -count=1 -timeout $(TEST_TIMEOUT) $(PLAIN)

# What several hosts and what an upgrade of Docker look like. Without its packages there is nothing to test with, and it says so.
ENGINE_STORIES := ^(TestContainersOfManyHostsShareANetwork|TestContainersRunThroughRestartsOfDocker)$$/^(and_reach_each_other|and_nothing_is_left_of_it)$$

engine: build compile ## stories of Docker again, with the engine of Debian's next release
	@dir=$$(.ci/engine trixie) || { rc=$$?; [ $$rc != 75 ] || { echo "make engine: left out, for want of its packages"; exit 0; }; exit $$rc; }; \
	$$dir/dockerd --version; \
	CGO_ENABLED=0 BUILT=$(CURDIR)/bin/fairlead DOCKER=$$dir go test -count=1 -timeout $(TEST_TIMEOUT) -run '$(ENGINE_STORIES)' ./nettest/story

vm: build ## tests of tunnels on a Debian kernel in QEMU, which has IPIP and GRE
	CGO_ENABLED=0 BUILT=$(CURDIR)/bin/fairlead go test -count=1 -timeout $(TEST_TIMEOUT) $(VM)

test-vm: deps vm ## these alone (KERNEL=a package, its file, or the path of boot/vmlinuz-VERSION beside lib/modules)

fuzz: ## each fuzz target for FUZZ_INPUTS inputs
	@set -e; for dir in $$(grep -rl --include='*_test.go' --exclude-dir=bin '^func Fuzz' . | xargs -r -n 1 dirname | sort -u); do \
	  list=$$(go test -list '^Fuzz' $$dir); \
	  for target in $$(echo "$$list" | grep '^Fuzz'); do \
	    echo "$$dir: $$target"; \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ_INPUTS)x -fuzzminimizetime 5s $$dir; \
	  done; \
	done

cover: deps build ## how much of the code the tests reach
	go test -count=1 -timeout $(TEST_TIMEOUT) -coverpkg=./... -coverprofile=bin/cover.out ./...
	go tool cover -func=bin/cover.out | tail -n 1

lint: bin/golangci-lint-$(GOLANGCI_LINT) ## the linters of .golangci.yml, gofmt, and shell syntax
	bash -n .ci/run && bash -n .ci/deps && bash -n .ci/engine && bash -n .ci/peers
	$< run ./...

# The linters are built here rather than fetched: what checks the code is the source that go.sum's database vouches for.
bin/golangci-lint-%:
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$*
	mv bin/golangci-lint $@

bin/govulncheck-%:
	GOBIN=$(CURDIR)/bin go install golang.org/x/vuln/cmd/govulncheck@$*
	mv bin/govulncheck $@

vulncheck: bin/govulncheck-$(GOVULNCHECK) ## known vulnerabilities in what we depend on (needs the net)
	timeout 300 $< ./...

demo: deps build ## four hosts, eight containers, one daemon killed: the main job, shown (KEEP=1 leaves it standing)
	@go build -o bin/demo ./nettest/demo
	@BUILT=$(CURDIR)/bin/fairlead KEEP=$(KEEP) bin/demo

bench-%: deps build ## a comparison: bench-ipam, bench-attach, bench-scale, bench-tunnel, bench-nat, bench-docker, bench-datapath (these four write bench/results)
	@BUILT=$(CURDIR)/bin/fairlead go run ./bench/$*

bench-datapath: peers # ROUNDS=, LENGTH= and ONLY= (words of the names of ways) make it shorter

peers: deps # what bench-datapath compares with, as far as it can be had
	@.ci/peers

generate: deps ## generated code, from its sources
	BPF2GO_CFLAGS=-I/usr/include/$$(gcc -print-multiarch) go generate ./...

bin/completion.%: bin/fairlead
	bin/fairlead completion $* > $@

install: bin/fairlead bin/completion.bash bin/completion.zsh bin/completion.fish ## onto this host: binary, units, drop-ins, completion, a first config (PREFIX, DESTDIR)
	install -D -m 0755 bin/fairlead $(DESTDIR)$(PREFIX)/bin/fairlead
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/fairlead.service > bin/fairlead.service
	install -D -m 0644 bin/fairlead.service $(DESTDIR)$(LIBDIR)/systemd/system/fairlead.service
	install -D -m 0644 systemd/fairlead.socket $(DESTDIR)$(LIBDIR)/systemd/system/fairlead.socket
	install -D -m 0644 systemd/10-fairlead.link $(DESTDIR)$(LIBDIR)/systemd/network/10-fairlead.link
	install -D -m 0644 systemd/10-fairlead.network $(DESTDIR)$(LIBDIR)/systemd/network/10-fairlead.network
	install -D -m 0644 systemd/networkd-fairlead.conf $(DESTDIR)$(LIBDIR)/systemd/networkd.conf.d/fairlead.conf
	install -D -m 0644 systemd/fairlead.sysusers $(DESTDIR)$(LIBDIR)/sysusers.d/fairlead.conf
	install -D -m 0644 systemd/NetworkManager-fairlead.conf $(DESTDIR)$(NMDIR)/fairlead.conf
	install -D -m 0644 bin/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fairlead
	install -D -m 0644 bin/completion.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fairlead
	install -D -m 0644 bin/completion.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/fairlead.fish
	install -D -m 0644 config.example.toml $(DESTDIR)$(PREFIX)/share/doc/fairlead/config.example.toml
	install -D -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/fairlead/LICENSE
	@# A config that is there stays, whatever its owner made of it.
	test -e $(DESTDIR)$(SYSCONFDIR)/fairlead/fairlead.toml || bin/fairlead init --config $(DESTDIR)$(SYSCONFDIR)/fairlead/fairlead.toml
ifeq ($(DESTDIR),)
	if command -v systemd-sysusers >/dev/null; then systemd-sysusers $(LIBDIR)/sysusers.d/fairlead.conf; fi
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@if systemctl is-active -q systemd-networkd 2>/dev/null; then networkctl reload || true; fi
	@if [ -d /run/NetworkManager ]; then systemctl try-reload-or-restart NetworkManager || true; fi
	@echo "installed; now: fairlead doctor, then: systemctl enable --now fairlead"
endif

uninstall: ## what install put there, but not the config and not the leases
ifeq ($(DESTDIR),)
	if [ -d /run/systemd/system ]; then systemctl disable --now fairlead.socket fairlead || true; fi
	if [ -x $(PREFIX)/bin/fairlead ]; then $(PREFIX)/bin/fairlead uninstall; fi
	rm -f /run/docker/plugins/fairlead.sock
endif
	rm -f $(addprefix $(DESTDIR),$(PREFIX)/bin/fairlead $(LIBDIR)/systemd/system/fairlead.service $(LIBDIR)/systemd/system/fairlead.socket \
	  $(LIBDIR)/systemd/network/10-fairlead.link $(LIBDIR)/systemd/network/10-fairlead.network \
	  $(LIBDIR)/systemd/networkd.conf.d/fairlead.conf $(LIBDIR)/sysusers.d/fairlead.conf $(NMDIR)/fairlead.conf \
	  $(PREFIX)/share/bash-completion/completions/fairlead $(PREFIX)/share/zsh/site-functions/_fairlead \
	  $(PREFIX)/share/fish/vendor_completions.d/fairlead.fish)
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/fairlead
ifeq ($(DESTDIR),)
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

clean: ## everything that was built
	rm -rf bin
