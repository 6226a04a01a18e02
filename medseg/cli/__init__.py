"""The command line: parse words, call one function below, print."""
