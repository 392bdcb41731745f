# make       set up .venv, then prepare, train, test, and print a few estimates
# make test  set up .venv with the test tools, and run the tests
# make card  measure the tables in the models' cards again (needs the records of each)
# Another Python: make PYTHON=python3.13 (the first time; 3.11 to 3.13).

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin

all: .venv/base
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

# Measure the tables of a card: $(1) the model's folder, $(2) its views, $(3) its records' folder.
define update_card
$(BIN)/python test.py --model $(1) --views $(2) --test $(3)/test.tfrecords --report report
sed -i -e '/<!-- tables/r report/tables.md' -e '/<!-- tables/,/<!-- end/{/<!--/!d}' $(1)/README.md
endef

card: .venv/dev
	$(call update_card,models/facenet,data/utkface_views.npz,data)
	$(call update_card,models/dlib,data/utkface_dlib_views.npz,data/dlib)
	$(call update_card,models/mobilefacenet,data/utkface_mobilefacenet_views.npz,data/mobilefacenet)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is not a Python 3.11 to 3.13; name one: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "no venv in $(PYTHON); install it: apt install python3-venv"; exit 2; }

# Files that record that pip has installed the requirements
.venv/base: requirements.txt requirements-score.txt | .venv/bin/python
	@echo "Installing requirements.txt into .venv, about two minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements.txt requirements-score.txt requirements-extra.txt requirements-dev.txt | .venv/bin/python
	@echo "Installing requirements-dev.txt into .venv, about three minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/base

.PHONY: all test card
