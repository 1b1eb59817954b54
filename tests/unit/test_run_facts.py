"""Facts of a run: what is set is written, rows of the version before are read."""

import json

import pytest

from likeness.storage.run_facts import ExtractFacts, IngestFacts, RunFacts, StageFacts, SuspectLabelsFacts

VERSION_1 = {
    "start": {"snapshots": {"images": 11, "failures": None}, "seconds": 9.0},
    "ingest": {"listed": 3, "new": 1, "known": 1, "rejected": 1, "fingerprint": "f", "seconds": 1.5},
    "extract": {"wanted": 5, "extracted": 4, "failed": 1, "complete": "s of images 11", "seconds": 2.0},
    "index": {"vectors": 4, "wanted": 4, "step": "whole", "seconds": 1.0},
    "doubts": {
        "model": "1",
        "doubted": 1,
        "worst": [
            {"image_id": "i", "product_id": "p", "uri": "u", "category": "hat", "said": "cap", "probability": 0.9}
        ],
        "seconds": 1.0,
    },
    "compact": {"features": [4, 1], "seconds": 1.0},
    "copy": {"files": 3, "seconds": 1.0},
    "promote": {"model": "m", "version": "2", "before": None, "seconds": 0.1},
    "report": {},
    "end": {"snapshots": {"images": 12}, "exit_code": 0},
}


def test_a_row_of_version_1_is_read_under_the_new_names() -> None:
    facts = RunFacts.model_validate_json(json.dumps(VERSION_1))
    assert facts.version == 2
    assert facts.ingest == IngestFacts(listed=3, new=1, existing=1, rejected=1, fingerprint="f", seconds=1.5)
    assert facts.extract
    assert (facts.extract.pending, facts.extract.complete) == (5, "s of images 11")
    assert facts.index
    assert (facts.index.expected, facts.index.vectors) == (4, 4)
    assert facts.suspect_labels
    assert (facts.suspect_labels.suspects, facts.suspect_labels.worst[0].predicted) == (1, "cap")
    assert facts.compact
    assert facts.compact.tables == {"features": (4, 1)}
    assert facts.copy_root
    assert facts.copy_root.files == 3
    assert facts.load is None
    assert facts.end
    assert facts.end.exit_code == 0


def test_what_is_read_is_what_was_written() -> None:
    facts = RunFacts.model_validate_json(json.dumps(VERSION_1))
    assert RunFacts.model_validate_json(facts.to_json()) == facts
    assert facts.dump()["version"] == 2
    assert facts.dump()["promote"] == VERSION_1["promote"]
    assert facts.dump()["compact"] == {"tables": {"features": [4, 1]}, "seconds": 1.0}


def test_a_count_that_was_not_taken_is_left_out() -> None:
    facts = RunFacts()
    facts.extract = ExtractFacts()
    assert facts.dump() == {"version": 2, "extract": {}}
    assert facts.extract.counts("pending", "failed") is None
    facts.extract.pending = facts.extract.failed = 0
    facts.extract.failed += 2
    assert facts.dump() == {"version": 2, "extract": {"pending": 0, "failed": 2}}
    assert facts.extract.counts("pending", "failed") == {"pending": 0, "failed": 2}


def test_a_run_killed_before_its_row_has_no_facts() -> None:
    assert RunFacts.model_validate_json("{}") == RunFacts()
    assert list(RunFacts.model_validate_json("{}").ran()) == []


@pytest.mark.parametrize("name", [name for name in RunFacts.model_fields if name != "version"])
def test_each_stage_has_its_type(name: str) -> None:
    kinds = {kind.stage(): kind for kind in _subclasses(StageFacts)}
    facts = RunFacts.model_validate({name: {}})
    assert type(getattr(facts, name)) is kinds[name]
    assert set(kinds[name].identity) <= kinds[name].model_fields.keys()
    assert kinds[name].work in ("", *kinds[name].model_fields)


def test_stages_ran_in_order() -> None:
    facts = RunFacts(extract=ExtractFacts(pending=7), suspect_labels=SuspectLabelsFacts(), ingest=IngestFacts(read=2))
    assert [stage.stage() for stage in facts.ran()] == ["ingest", "extract", "suspect_labels"]
    assert [stage.amount for stage in facts.ran()] == [2, 7, 0]


def _subclasses(kind: type[StageFacts]) -> list[type[StageFacts]]:
    return [each for direct in kind.__subclasses__() for each in (direct, *_subclasses(direct))]
