"""Tables, columns, migrations and views of the warehouse."""
