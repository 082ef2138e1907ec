"""What happens before and around a model: files, radiometry, tables, pictures."""
