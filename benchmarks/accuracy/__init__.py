"""How accurate a network of a given size is: our method and the others, on the same terms.

One package a question: `task` says what is learned, `run` trains one network, the files in
`methods` decide which groups go, `table` draws what came out. Start it with

    PYTHONPATH=benchmarks python -m accuracy --help
"""
