"""Train a classification head in seconds on the features of a frozen encoder.

labelled text -> split -> encode -> choose the penalty -> fit -> calibrate -> attach -> report
"""
