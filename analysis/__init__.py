"""From the records of finished trainings to tables and figures. Never trains, needs no GPU and no torch.

`frame` reads records into rows, `summary` computes every number that is printed, `tables` and `figures` render,
`exhibits` says what a report holds, `report` writes it, `page` shows all reports in a browser.
"""
