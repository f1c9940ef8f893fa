"""The dual encoder in torch: loading, prompting, exporting."""
