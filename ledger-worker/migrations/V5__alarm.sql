-- Why no worker writes, while one has found that the books in the stream and in these rows are not one. Readers tell no money then.

alter table cursor add column alarm text;
