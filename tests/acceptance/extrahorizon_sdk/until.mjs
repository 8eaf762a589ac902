// Waits for what a server is about to do.
export const until = async happened => {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await happened();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`never happened: ${happened}`);
    await new Promise(resolve => setTimeout(resolve, 100));
  }
};
