"""Recipes that train the models which lie in files. They run where the data are, never at the edge, and need `pip install 'genba[train]'`.

A recipe takes arrays and gives the bytes of one ONNX file that says what it takes and what it was trained on. Its libraries are imported when
it is called.
"""
