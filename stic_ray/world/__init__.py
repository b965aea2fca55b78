"""The embedded world: synthetic images with exact ground truth and a tiny LVLM trained on them.

For the product's first run and the tests. Everything outside this package sees only the files of `filesystem.py`.
"""
