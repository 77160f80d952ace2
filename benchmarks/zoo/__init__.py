"""The zoo: many small architectures that are all shrunk and checked by the same runner.

    PYTHONPATH=benchmarks python -m zoo               # all of it; finished models are skipped
    PYTHONPATH=benchmarks python -m zoo LeNet BERT    # these, again
    PYTHONPATH=benchmarks python -m zoo --table       # only write docs/zoo.md from the results

Model files register what they define (entry.py), check.py measures one model, __main__.py runs all
and writes benchmarks/results/zoo.jsonl, table.py makes docs/zoo.md of it.
"""
