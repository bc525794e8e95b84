"""The exhibits, one decorated entry each; `analysis.exhibits` reads every module here."""
