# make       set up .venv and run the whole road: prepare, train, test, and a few estimates
# make test  the same environment with the test tools, and the tests
# make card  the tables in the cards of both models, measured anew (needs the records of both)
# Another Python: make PYTHON=python3.13 (the first time; 3.11 to 3.13).

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin

road: .venv/road
	$(BIN)/python prepare.py
	$(BIN)/python train.py
	$(BIN)/python test.py
	$(BIN)/python run.py --features data/utkface.npz | head -n 6
	@echo
	@echo "prepare.py  wrote the labelled embeddings of data/utkface.npz to data/*.tfrecords."
	@echo "train.py    trained a model on them: models/age_gender.tflite, curves in logs/."
	@echo "test.py     measured it on 1,500 faces that it was not trained on: the Summary above."
	@echo "run.py      printed the first estimates. From now on it takes the model just trained;"
	@echo "            with --model models/facenet it takes the shipped one."

test: .venv/dev
	$(BIN)/python -m pytest

tables_into = sed -i -e '/<!-- tables/r report/tables.md' -e '/<!-- tables/,/<!-- end/{/<!--/!d}' $(1)

card: .venv/dev
	$(BIN)/python test.py --model models/facenet --views data/utkface_views.npz --report report
	$(call tables_into,models/facenet/README.md)
	$(BIN)/python test.py --model models/mobilefacenet --views data/utkface_mobilefacenet_views.npz --report report \
		--test data/mobilefacenet/test.tfrecords
	$(call tables_into,models/mobilefacenet/README.md)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is no Python 3.11 to 3.13 here; name one that is: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "no venv in $(PYTHON); install it: apt install python3-venv"; exit 2; }

.venv/road: requirements.txt | .venv/bin/python
	@echo "Installing requirements.txt into .venv, about two minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements.txt requirements-extra.txt requirements-dev.txt | .venv/bin/python
	@echo "Installing requirements-dev.txt into .venv, about three minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/road

.PHONY: road test card
