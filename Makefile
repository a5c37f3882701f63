# Every target is one script; LOK__… and the variables named in deploy/dev/stack.sh choose.
.DEFAULT_GOAL := help
.PHONY: help up down status logs wipe demo test chaos fuzz lint audit bench bench-compare bench-docs k8s-check asyncapi-check

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\): ## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do printf '  %-16s %s\n' "$$target" "$$text"; done

up: ## the whole stack, kept running: PostgreSQL, RabbitMQ, services (DISPATCHERS=n)
	@deploy/dev/stack.sh up

down: ## stop what `make up` started; the data stays
	@deploy/dev/stack.sh down

status: ## each process of the stack: pid, address, ready or why not
	@deploy/dev/stack.sh status

logs: ## follow the logs (NAME=dispatcher-0 for one)
	@deploy/dev/stack.sh logs $(NAME)

wipe: ## `make down`, and remove the data
	@deploy/dev/stack.sh wipe

demo: ## the main job from a bare machine, with receivers in Node, Python and PHP
	@deploy/demo/run.sh

test: ## every test, from a bare machine (TESTS=name for some)
	@deploy/dev/test.sh

chaos: ## kill, stop and cut off everything at random, then prove that nothing was lost (MINUTES=5, SEED, WIPE=1)
	@deploy/dev/chaos.sh

fuzz: ## look for inputs that break a rule, with libFuzzer on a nightly toolchain (MINUTES=10, TARGET; see crates/fuzz)
	@deploy/dev/fuzz.sh

lint: ## formatting, clippy, documentation, scripts, dependencies
	@deploy/dev/lint.sh

audit: ## dependencies against the RustSec advisory database, which it fetches from GitHub
	@deploy/dev/audit.sh

bench: ## throughput, latency, fairness and memory, measured beside floors (ARGS="--short", "--only fan-out-1", --list, --help)
	@deploy/dev/bench.sh $(ARGS)

bench-compare: ## two results of `make bench`, figure by figure (A=before.json B=after.json)
	@deploy/dev/bench-compare.sh $(A) $(B)

bench-docs: ## the tables and plots of docs/performance.md, made anew of results (RESULT=.dev/bench/….json)
	@deploy/dev/bench-docs.sh $(RESULT)

k8s-check: ## render the Kubernetes manifests and validate them
	@deploy/k8s-check.sh

asyncapi-check: ## validate proto-schemas/asyncapi.yaml and compare it with the code
	@deploy/asyncapi-check.sh
