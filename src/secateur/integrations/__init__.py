"""Other people's trainers: import `secateur.integrations.lightning` or `.transformers`.

Each needs its package.
"""
