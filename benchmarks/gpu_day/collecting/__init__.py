"""From records to the pages: merged by device, tables generated."""
