# gitopsd: `make help` lists what can be made.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := bin
CACHE := $(CURDIR)/.cache
export GITOPSD_TEST_CACHE := $(CACHE)

.PHONY: help build test unit e2e lint fmt check bench bench-swarm soak fuzz mutants tools clean

help: ## say what each target does
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

build: ## build bin/gitopsd, reproducibly
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o $(BIN)/gitopsd ./cmd/gitopsd

test: ## run every test: units, with the race detector where there are goroutines, then whole hosts from built binaries
	@scripts/test

unit: ## run the unit tests alone, with the race detector where there are goroutines
	@scripts/test units

e2e: ## run the tests of built binaries alone
	go test -timeout 10m ./test/...

lint: ## vet and staticcheck
	go vet ./...
	cd tools/staticcheck && go build -o $(CACHE)/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(CACHE)/staticcheck ./...

fmt: ## fail when a file is not gofmt'ed
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt'ed:"; echo "$$out"; exit 1; fi

check: fmt lint unit ## what to run before a commit

bench: ## measure: latency from push to healthy, memory, packing; figures are printed, ratios asserted
	scripts/bench

bench-swarm: ## measure how fast a bundle reaches 4, 8 and 16 hosts over links of a known rate, against S3 alone and BitTorrent, with faults and deltas (root; RUNS=3)
	scripts/bench-swarm

soak: ## run the rollout properties and the whole-host tests again and again for SOAK (default 10m)
	scripts/soak

fuzz: ## run every fuzz target for FUZZTIME each (default 30s)
	scripts/fuzz

mutants: ## plant each fault of test/mutants in turn and expect a test to fail
	scripts/mutants

tools: ## build the pinned tools that tests use
	scripts/tools

clean: ## remove what was built
	rm -rf $(BIN) $(CACHE)
