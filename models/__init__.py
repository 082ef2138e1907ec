"""What a model or a statistic is and how it is judged; tensors and arrays in and out."""
