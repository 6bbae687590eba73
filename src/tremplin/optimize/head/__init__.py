"""Train a classification head in seconds on the features of a frozen encoder.

read labelled text -> split -> encode -> choose the penalty -> fit -> calibrate -> attach to the graph -> report
"""
