"""From a folder as phones and labeling tools leave it to a dataset: names, and masks from wherever they are."""
