"""Where questions come from: drawn and public sets, a user's folder, and the forms that rows are exchanged in."""
