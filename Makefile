PYTHON ?= python3
# forkserver imports torch once; spawn starts a fresh process for every benchmark
LAUNCH ?= forkserver
MACHINE ?=
PORT ?= 8080
ARGS ?=

BOOTSTRAP = $(PYTHON) -m tools.bootstrap

.PHONY: bench test env site serve lint clean

bench:
	@$(BOOTSTRAP) bench --launch $(LAUNCH) --machine "$(MACHINE)" $(ARGS)

test:
	@$(BOOTSTRAP) test $(ARGS)

env site lint:
	@$(BOOTSTRAP) $@

serve:
	@$(BOOTSTRAP) serve --port $(PORT)

clean:
	rm -rf .venv .asv
