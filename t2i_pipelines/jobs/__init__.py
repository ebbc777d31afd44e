"""Run long jobs over whole collections: sync, embed again, back up, load in bulk, insert on Ray."""
